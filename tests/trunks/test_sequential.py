"""The order of towers against the tasks' label spaces, and two ranks against one process."""

import re

import pytest
import torch
import torch.distributed as dist

from tests.small import FEATURES, gradient_of, make_batch, make_embeddings
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.heads import ExpectedValue, Joined, ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask, LogRegressionTask, MonotonicityTerm, OrdinalTask, RegressionTask
from torchrec_mtl.testing.parity import concatenated
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import AITM, DBMTL, HTLNet, MMoE

SEQUENTIAL = [AITM, DBMTL, HTLNet]
CTR = BinaryTask("ctr", "click")
CART = BinaryTask("cart", "cart", label_space="click")
CVR = BinaryTask("cvr", "purchase", label_space=("click", "cart"))
VALUE = RegressionTask("value", "value", label_space="purchase")


def objective(trunk_class, tasks, towers=None, links=(), trunk=None):
    torch.manual_seed(0)
    towers = towers or [task.name for task in tasks]
    trunk = trunk or trunk_class(FEATURES.width, len(towers))
    heads = TaskHeads({name: Tower(trunk.out_features, hidden=[]) for name in towers}, links)
    return MultiTaskObjective(MultiTaskModel(make_embeddings(), trunk, heads), tasks)


@pytest.mark.parametrize("trunk_class", SEQUENTIAL)
def test_the_funnels_order_is_taken(trunk_class):
    objective(trunk_class, [CTR, CART, CVR, VALUE])
    objective(trunk_class, [VALUE, CVR, CTR, CART], towers=["ctr", "cart", "cvr", "value"])  # towers count, not tasks


@pytest.mark.parametrize("trunk_class", SEQUENTIAL)
@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        (
            [CART, CTR, CVR],
            "in ['cart', 'ctr', 'cvr'] tower 'cart' does not come after 'ctr', which predicts its label space 'click'. "
            "Declare the towers in the order ['ctr', 'cart', 'cvr'].",
        ),
        (  # the second of two spaces
            [CTR, CVR, CART],
            "tower 'cvr' does not come after 'cart', which predicts its label space 'cart'. "
            "Declare the towers in the order ['ctr', 'cart', 'cvr'].",
        ),
        (
            [VALUE, CTR],
            "tower 'value' does not come after 'ctr', as a continuous task must. "
            "Declare the towers in the order ['ctr', 'value'].",
        ),
        (
            [CTR, OrdinalTask("stars", "stars", boundaries=[1.0]), CART],
            "tower 'stars' does not come after 'cart', as a continuous task must. "
            "Declare the towers in the order ['ctr', 'cart', 'stars'].",
        ),
        (  # those that nothing ties keep their places
            [BinaryTask("like", "like"), VALUE, CVR, CTR],
            "tower 'value' does not come after 'cvr', which predicts its label space 'purchase'. "
            "Declare the towers in the order ['like', 'ctr', 'cvr', 'value'].",
        ),
    ],
)
def test_another_order_is_refused(trunk_class, tasks, found):
    text = re.escape(f"{trunk_class.__name__} passes information from tower to tower in their order, but ")
    with pytest.raises(ValueError, match=text + ".*" + re.escape(found) + "$"):
        objective(trunk_class, tasks)


def test_spaces_in_a_circle_have_no_order():
    tasks = [BinaryTask("ctr", "click", label_space="purchase"), BinaryTask("cvr", "purchase", label_space="click")]
    text = (
        "AITM: no order of the towers fits their tasks: 'ctr' after 'cvr', which predicts its label space 'purchase'; "
        "'cvr' after 'ctr', which predicts its label space 'click'. Correct the label spaces or the links."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        objective(AITM, tasks)


def test_other_trunks_take_any_order():
    objective(MMoE, [VALUE, CVR, CTR])


ESMM = [CTR, BinaryTask("ctcvr", "purchase")]  # without a task for cvr


@pytest.mark.parametrize("trunk_class", SEQUENTIAL)
def test_towers_of_a_chain_stand_in_its_order(trunk_class):
    chain = ProbabilityProduct("ctcvr", of=("ctr", "cvr"))
    objective(trunk_class, ESMM, towers=["ctr", "cvr"], links=[chain])
    text = (
        "in ['cvr', 'ctr'] tower 'cvr' does not come after 'ctr', the step before it in ['ctr', 'cvr']. "
        "Declare the towers in the order ['ctr', 'cvr']."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        objective(trunk_class, ESMM, towers=["cvr", "ctr"], links=[chain])


def test_a_chain_of_chains_is_one_of_towers():
    links = [ProbabilityProduct("ctcvr", of=("ctr", "cvr")), ExpectedValue("gmv", of=("ctcvr", "value"))]
    tasks = [*ESMM, RegressionTask("gmv", "value", weight=0.0)]
    objective(AITM, [*tasks, VALUE], towers=["ctr", "cvr", "value"], links=links)
    with pytest.raises(ValueError, match=r"'value' does not come after 'cvr', the step before it in"):
        objective(AITM, [*tasks, VALUE], towers=["ctr", "value", "cvr"], links=links)


@pytest.mark.parametrize("trunk_class", SEQUENTIAL)
def test_towers_that_nothing_ties_stand_as_declared(trunk_class):
    """A term, whose label is no prediction, is not asked, and what joins outputs is no chain."""
    links = [Joined("order", of=("ctr", "other"))]
    tasks = [CTR, BinaryTask("other", "purchase"), MonotonicityTerm("order", "click", weight=0.6)]
    objective(trunk_class, tasks, towers=["other", "ctr"], links=links)


def test_tasks_that_are_continuous():
    assert VALUE.continuous
    assert LogRegressionTask("value", "value").continuous
    assert not CTR.continuous


@pytest.mark.parametrize("trunk_class", [AITM, DBMTL])
def test_several_continuous_tasks_may_end_the_funnel(trunk_class):
    objective(trunk_class, [CTR, VALUE, RegressionTask("minutes", "minutes")])


# --- several ranks

RANK_TASKS = [CTR, BinaryTask("cvr", "purchase", label_space="click"), VALUE]


def rank_batch(rank):
    generator = torch.Generator().manual_seed(rank)
    click = (torch.rand(40, generator=generator) < (0.2, 0.9)[rank]).float()
    purchase = click * (torch.rand(40, generator=generator) < 0.5)
    value = torch.where(purchase == 1, torch.rand(40, generator=generator), float("nan"))
    return make_batch({"click": click, "purchase": purchase, "value": value}, seed=10 + rank)


def rank_gradient(trunk_class, batch):
    made = objective(trunk_class, RANK_TASKS)
    made.model.trunk.eval()  # a label of HTLNet is drawn anew on every rank: here without noise
    loss, _, gradient = gradient_of(made, batch)
    return loss, gradient


def gradients_on_rank():
    with distributed() as runtime:
        found = {}
        for trunk_class in SEQUENTIAL:
            loss, gradient = rank_gradient(trunk_class, rank_batch(runtime.rank.index))
            for value in gradient.values():
                dist.all_reduce(value)
                value.div_(runtime.rank.world_size)
            found[trunk_class.__name__] = loss, gradient
        return found


def test_two_ranks_have_the_gradient_of_one_process():
    found = run_on_ranks(gradients_on_rank, 2)
    for trunk_class in SEQUENTIAL:
        loss, expected = rank_gradient(trunk_class, concatenated([rank_batch(rank) for rank in range(2)]))
        for rank in range(2):
            rank_loss, gradient = found[rank][trunk_class.__name__]
            torch.testing.assert_close(rank_loss, loss)
            assert gradient.keys() == expected.keys()
            for name, value in expected.items():
                assert value.any(), f"{trunk_class.__name__}: {name} has no gradient to compare"
                torch.testing.assert_close(gradient[name], value, atol=1e-6, rtol=1e-4)
