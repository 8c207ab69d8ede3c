"""HTLNet against a slow float64 reference, where its gradients stop, and how its labels are drawn."""

import copy
import math
import re

import pytest
import torch

from tests.small import FEATURES, make_batch, make_embeddings
from tests.trunks.by_hand import affine, attention, floats, sequential
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.mlp import LayerOptions
from torchrec_mtl.tasks import BinaryTask, MulticlassTask, RegressionTask
from torchrec_mtl.trunks import Annealing, HTLNet


def make(num_tasks=3, layers=(5, 4), label_features=2, seed=0, **arguments):
    """A trunk and its towers."""
    torch.manual_seed(seed)
    trunk = HTLNet(6, num_tasks, layers=layers, label_features=label_features, **arguments)
    towers = [Tower(layers[-1], hidden=[3]) for _ in range(num_tasks)]
    with torch.no_grad():
        for tower in towers:
            tower.output.weight.mul_(5)  # probabilities far from 1/2
    trunk.bind({f"task{t}": tower for t, tower in enumerate(towers)})
    return trunk, towers


def features(rows=4):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1)) * 3


# --- the equations


def reference(trunk, towers, row, temperature, odds, num_layers):
    """One row; ``odds``: u/(1 - u) of each label's draw, 1 for none.

    With p and the odds r the Gumbel-softmax share of "yes" is (p r)^(1/T) / ((p r)^(1/T) + (1 - p)^(1/T)).
    """
    state, found, labels = floats(trunk), [sequential(floats(trunk), "own.0", row, num_layers)], []
    for t in range(1, trunk.num_tasks):
        tower = floats(towers[t - 1])
        (logit,) = affine(tower["output.weight"], tower["output.bias"], sequential(tower, "hidden", found[-1], 1))
        p = 1 / (1 + math.exp(-logit))
        yes, no = (p * odds[t - 1]) ** (1 / temperature), (1 - p) ** (1 / temperature)
        share = yes / (yes + no)
        of_yes, of_no = state[f"labels.{t - 1}"]
        labels.append([share * a + (1 - share) * b for a, b in zip(of_yes, of_no, strict=True)])
        read = attention(state, f"fuse_vectors.{t - 1}", found) + attention(state, f"fuse_labels.{t - 1}", labels) + row
        found.append(sequential(state, f"own.{t}", read, num_layers))
    return found


@pytest.mark.parametrize(("num_tasks", "layers"), [(1, (4,)), (2, (5, 4)), (4, (5, 4))])
@pytest.mark.parametrize("temperature", [10.0, 0.5])
def test_htlnet_evaluated_equals_the_equations_written_out(num_tasks, layers, temperature):
    trunk, towers = make(num_tasks, layers, annealing=Annealing(start=temperature))
    trunk.eval()
    x = features()
    rows = x.double().tolist()
    expected = torch.tensor(
        [reference(trunk, towers, row, temperature, [1.0] * num_tasks, len(layers)) for row in rows]
    )
    assert (expected.abs().amax((0, 2)) > 0.1).all()
    torch.testing.assert_close(trunk(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [10.0, 0.5])
def test_htlnet_in_training_equals_them_with_the_draws_of_its_seed(temperature):
    trunk, towers = make(4, annealing=Annealing(start=temperature))
    x = features()
    torch.manual_seed(5)
    found = trunk(x)
    torch.manual_seed(5)
    draws = torch.stack([torch.rand(len(x)) for _ in range(3)], dim=1).double()
    odds = (draws / (1 - draws)).tolist()
    rows = x.double().tolist()
    expected = [reference(trunk, towers, row, temperature, r, 2) for row, r in zip(rows, odds, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


# --- labels


class Constant(torch.nn.Module):
    """A tower that gives one logit to all rows."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, features):
        return torch.full((len(features),), self.logit)


def label_shares(trunk, rows):
    """The shares of "yes" that the second task reads, ``[rows]``: embeddings of 1 and 0 make them visible."""
    with torch.no_grad():
        trunk.labels[0].copy_(torch.tensor([[1.0], [0.0]]))
    seen = []
    handle = trunk.fuse_labels[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    trunk(torch.zeros(rows, 6))
    handle.remove()
    return seen[0].squeeze(1)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.7])
@pytest.mark.parametrize("temperature", [10.0, 0.5])
def test_a_label_is_likelier_than_not_as_often_as_predicted(p, temperature):
    """The property of Gumbel-softmax: the largest share is "yes" with probability p, at any temperature."""
    trunk = HTLNet(6, 2, layers=[3], label_features=1, annealing=Annealing(start=temperature))
    trunk.bind({"click": Constant(math.log(p / (1 - p))), "value": Constant(0.0)})
    torch.manual_seed(0)
    shares = label_shares(trunk, 200_000)
    deviation = math.sqrt(p * (1 - p) / 200_000)
    assert abs((shares > 0.5).double().mean().item() - p) < 4 * deviation
    trunk.eval()
    middle = label_shares(trunk, 1).item()  # the median of the draws: half of them lie below
    assert abs((shares < middle).double().mean().item() - 0.5) < 4 * math.sqrt(0.25 / 200_000)


def test_a_low_temperature_makes_labels_hard_and_a_high_one_soft():
    trunk = HTLNet(6, 2, layers=[3], label_features=1, annealing=Annealing(start=0.01, floor=0.01))
    trunk.bind({"click": Constant(0.3), "value": Constant(0.0)})
    hard = label_shares(trunk, 2000)
    assert ((hard < 0.01) | (hard > 0.99)).double().mean() > 0.95
    trunk.annealing = Annealing(start=1000.0)
    assert (label_shares(trunk, 2000) - 0.5).abs().max() < 0.01


def test_an_extreme_prediction_or_draw_stays_finite(monkeypatch):
    for logit in (-3e4, 3e4):
        trunk = HTLNet(6, 2, layers=[3], annealing=Annealing(start=0.5))
        trunk.bind({"click": Constant(logit), "value": Constant(0.0)})
        monkeypatch.setattr(torch, "rand_like", torch.zeros_like)  # u = 0, the smallest draw
        out = trunk(features())
        out.sum().backward()
        assert out.isfinite().all()
        assert trunk.labels[0].grad.isfinite().all()


def test_a_seed_repeats_the_labels():
    trunk, _ = make()
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(trunk(features()))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[0][:, 0], outputs[2][:, 0]), "the first task reads no label"
    before = torch.get_rng_state()
    trunk.eval()
    assert torch.equal(trunk(features()), trunk(features()))
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn in eval mode"


# --- gradients


def any_gradient(parameters):
    """Exact: a gradient of zeros is none."""
    return any(parameter.grad is not None and parameter.grad.any().item() for parameter in parameters)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("task", [0, 1, 2])
def test_a_task_trains_its_own_parts_and_the_features_alone(training, task):
    trunk, towers = make(layers=(16, 16))
    trunk.train(training)
    x = features(20).requires_grad_()
    trunk(x)[:, task].square().sum().backward()
    assert [any_gradient(own.parameters()) for own in trunk.own] == [t == task for t in range(3)]
    assert not any(any_gradient(tower.parameters()) for tower in towers), "p is passed on without a gradient"
    assert any_gradient([x])
    assert [any_gradient([table]) for table in trunk.labels] == [t < task for t in range(2)], "E learns"
    for units in (trunk.fuse_vectors, trunk.fuse_labels):
        assert [any_gradient(unit.parameters()) for unit in units] == [t == task - 1 for t in range(2)]
    if task == 2:
        fusions = [*trunk.fuse_vectors[1].parameters(), *trunk.fuse_labels[1].parameters()]
        assert all(parameter.grad.any() for parameter in fusions)


def test_features_get_no_gradient_through_what_is_passed_on():
    """The same as with a constant in the place of what the earlier tasks found."""
    trunk, _ = make()
    read = []
    trunk.own[2].register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    x = features().requires_grad_()
    trunk(x)[:, 2].square().sum().backward()
    alone = features().requires_grad_()
    told = read[0][:, :-6].detach()
    trunk.own[2](torch.cat([told, alone], dim=1)).square().sum().backward()
    assert alone.grad.any()
    assert torch.equal(x.grad, alone.grad)


def small_objective(trunk, *tasks):
    heads = TaskHeads({task.name: Tower(trunk.out_features, hidden=[4], outputs=task.outputs) for task in tasks})
    return MultiTaskObjective(MultiTaskModel(make_embeddings(), trunk, heads), tasks)


CTR, CVR = BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase", label_space="click")
VALUE = RegressionTask("value", "value", label_space="purchase")
BATCH = make_batch({"click": [1, 0, 1, 1], "purchase": [1, 0, 0, 1], "value": [2.0, 0.0, 0.0, 1.0]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_towers_learn_from_their_own_loss_also_under_autocast(dtype):
    """Called twice in a step: were autocast to keep a weight from the call without gradient, it would never learn."""
    torch.manual_seed(0)
    objective = small_objective(HTLNet(FEATURES.width, 3, layers=[8]), CTR, CVR, VALUE)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
        loss, _ = objective(BATCH)
    loss.backward()
    for name, parameter in objective.model.heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(tower.output.weight.grad.any() for tower in objective.model.heads.towers)


# --- towers


def test_the_model_shows_the_trunk_its_towers():
    objective = small_objective(HTLNet(FEATURES.width, 2, layers=[8]), CTR, CVR).eval()
    before = objective.model(BATCH)
    with torch.no_grad():
        objective.model.heads.towers[0].output.bias += 3
    after = objective.model(BATCH)
    torch.testing.assert_close(after["ctr"], before["ctr"] + 3)
    assert not torch.equal(after["cvr"], before["cvr"]), "the label of a click reaches the conversion"
    assert not any("tower" in name for name, _ in objective.model.trunk.named_parameters())
    names = [name for name, _ in objective.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(map(id, objective.parameters()))), "no parameter has two names"


def test_a_copy_of_the_model_asks_its_own_towers():
    model = small_objective(HTLNet(FEATURES.width, 2, layers=[8]), CTR, CVR).model.eval()
    twin = copy.deepcopy(model)
    before = model(BATCH)["cvr"]
    with torch.no_grad():
        twin.heads.towers[0].output.bias += 3
    assert torch.equal(model(BATCH)["cvr"], before)
    assert not torch.equal(twin(BATCH)["cvr"], before)


def test_towers_are_asked_as_in_eval_mode_and_left_in_theirs():
    options = LayerOptions(dropout=0.5, norm=torch.nn.BatchNorm1d)
    trunk = HTLNet(6, 2, layers=[8], label_features=1, annealing=Annealing(start=1.0))
    tower, last = Tower(8, hidden=[8], options=options), Tower(8)
    tower.hidden[0].eval()  # a part that its owner has frozen
    trunk.bind({"click": tower, "value": last})
    modes = [part.training for part in tower.modules()]
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    torch.manual_seed(0)
    shares = label_shares(trunk, 5)
    assert [part.training for part in tower.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items()), "a batch counts once"
    torch.manual_seed(0)
    u = torch.rand(5)
    tower.eval()
    logit = tower(trunk.own[0](torch.zeros(5, 6)))
    torch.testing.assert_close(shares, (logit + (u / (1 - u)).log()).sigmoid())


# --- training steps


def test_steps_are_counted_in_training_and_kept_by_the_state():
    annealing = Annealing(start=8.0, decay=0.5, every=2, floor=1.5)
    trunk, _ = make(annealing=annealing)
    found = []
    for _ in range(6):
        found.append(trunk.temperature.item())
        trunk(features())
        trunk.eval()
        trunk(features())  # not counted
        trunk.train()
    assert found == [8, 8, 4, 4, 2, 2]
    assert trunk.temperature == 1.5
    other, _ = make(annealing=annealing, seed=1)
    other.load_state_dict(trunk.state_dict())
    assert other.temperature == 1.5
    other.eval()
    trunk.eval()
    assert not torch.equal(other(features()), trunk(features())), "towers are no part of the trunk's state"
    other.bind({f"task{t}": tower for t, tower in enumerate(trunk._towers)})
    assert torch.equal(other(features()), trunk(features()))


def test_the_draws_follow_the_temperature():
    trunk = HTLNet(6, 2, layers=[3], label_features=1, annealing=Annealing(start=100.0, decay=1e-3, every=1, floor=0.1))
    trunk.bind({"click": Constant(0.0), "value": Constant(0.0)})
    first, second = (label_shares(trunk, 1000) - 0.5 for _ in range(2))
    assert first.abs().max() < 0.1  # temperature 100
    assert (second.abs() > 0.4).double().mean() > 0.7  # 0.1: |logistic| > 0.22 leaves 0.1, with probability 0.89


# --- errors


def test_a_trunk_without_towers_says_so():
    text = (
        "HTLNet does not know the towers yet, whose predictions are its labels. Build the MultiTaskModel(embeddings, "
        "trunk, heads) first, or call bind({name: tower}) with all of them."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        HTLNet(6, 2)(features())
    assert HTLNet(6, 1, layers=[3])(features()).shape == (4, 1, 3)  # nobody to ask


def test_another_number_of_towers_is_refused():
    with pytest.raises(ValueError, match=re.escape("HTLNet has 2 tasks, but found 1 towers: ['ctr']")):
        HTLNet(6, 2, layers=[3]).bind({"ctr": Tower(3)})


def test_a_tower_with_an_attention_block_of_its_own_is_refused():
    text = (
        "HTLNet asks tower 'cvr' for its prediction, so the tower must read the trunk's 3 features alone, but it reads "
        "5. Let no features (network.only) be for this tower alone, share the sequences' attention blocks between the "
        "tasks, or take another trunk."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        HTLNet(6, 2, layers=[3]).bind({"ctr": Tower(3), "cvr": Tower(5)})


def test_only_the_last_task_may_be_something_else_than_a_probability():
    many = MulticlassTask("product", "product", classes=3)
    small_objective(HTLNet(FEATURES.width, 2), CTR, many)
    for tasks, name in (([many, CTR], "product"), ([CTR, VALUE, RegressionTask("minutes", "minutes")], "value")):
        text = (
            f"HTLNet embeds the labels of all towers but the last, so each must give the probability of one logit, "
            f"but task '{name}' is a {type(tasks[-2]).__name__}. Declare it last, or take AITM or DBMTL."
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            small_objective(HTLNet(FEATURES.width, len(tasks)), *tasks)


def test_a_tower_of_several_values_without_a_task_is_refused_on_use():
    trunk = HTLNet(6, 2, layers=[3])
    trunk.bind({"ctr": Tower(3, outputs=2), "cvr": Tower(3)})
    with pytest.raises(ValueError, match=r"each must give one logit a row, but tower 1 of 2 gives \[2\] values"):
        trunk(features())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": []}, r"HTLNet: layers must name at least one width .* but found layers=\[\] and label_features=16"),
        ({"label_features": 0}, r"label_features be at least 1, but found layers=\[256, 128\] and label_features=0"),
        ({"layers": [8, 0]}, r"HTLNet, layers: Layer widths must be at least 1, but found \[8, 0\]"),
        ({"layers": [0, 8]}, r"HTLNet, layers: Layer widths must be at least 1, but found \[0, 8\]"),
    ],
)
def test_htlnet_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        HTLNet(6, 2, **arguments)


@pytest.mark.parametrize("width", [4, 100])
def test_embeddings_of_labels_start_with_the_variance_of_one_over_their_width(width):
    torch.manual_seed(0)
    labels = torch.cat([table.flatten() for table in HTLNet(6, 500, layers=[2], label_features=width).labels])
    assert labels.var().item() == pytest.approx(1 / width, rel=0.1)
    assert labels.mean().abs() < 0.05 / width**0.5
