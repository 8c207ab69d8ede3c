"""The loss against sums written out, empty spaces, missing labels, and two ranks against one process."""

import math
import re

import pytest
import torch
import torch.distributed as dist

from tests.small import FEATURES, gradient_of, make_batch, make_embeddings, make_model, make_objective
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.balancers import Balancer
from torchrec_mtl.heads import ExpectedValue, Joined, ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.loss import MultiTaskLoss
from torchrec_mtl.tasks import BinaryTask, InversePropensityTerm, RegressionTask, ZeroInflatedLogNormalTask
from torchrec_mtl.testing.parity import concatenated
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import SharedBottom

NAN = float("nan")
TASKS = [
    BinaryTask("ctr", "click"),
    BinaryTask("cvr", "purchase", label_space="click", weight=0.5, sample_weight="rate"),
    RegressionTask("value", "value", label_space="purchase", weight=2.0, shift=1.0, scale=4.0),
    BinaryTask("measured", "purchase", weight=0.0),
]
OUTPUTS = {
    "ctr": [0.3, -1.2, 2.0, 0.7, -0.4],
    "cvr": [1.1, 0.2, -0.9, 0.5, -2.2],
    "value": [0.5, 0.1, -0.3, 7.0, 0.0],
    "measured": [0.0, 1.0, -1.0, 2.0, 0.5],
}
LABELS = {
    "click": [1, 0, 1, NAN, 1],
    "purchase": [1, 0, 0, 1, NAN],
    "value": [9.0, NAN, 3.0, 2.0, NAN],
}
WEIGHTS = {"rate": [2.0, 5.0, 0.5, 3.0, 4.0]}


def tensors(columns, **options):
    return {name: torch.tensor(column, dtype=torch.float32, **options) for name, column in columns.items()}


def bce(a, z):
    """In float64: −log of the probability that the logit gives to the label."""
    p = 1 / (1 + math.exp(-a))
    return -math.log(p if z else 1 - p)


def written_out():
    """Row by row. Spaces: ctr rows 0, 1, 2, 4 (3 is unknown); cvr clicks with known purchase: 0, 2;
    value purchases with known value: 0, 3; measured: 0, 1, 2, 3."""
    ctr, cvr, value, measured = OUTPUTS.values()
    return {
        "ctr": (bce(ctr[0], 1) + bce(ctr[1], 0) + bce(ctr[2], 1) + bce(ctr[4], 1)) / 4,
        "cvr": (2.0 * bce(cvr[0], 1) + 0.5 * bce(cvr[2], 0)) / (2.0 + 0.5),
        "value": ((value[0] - (9 - 1) / 4) ** 2 + (value[3] - (2 - 1) / 4) ** 2) / 2,
        "measured": (bce(measured[0], 1) + bce(measured[1], 0) + bce(measured[2], 0) + bce(measured[3], 1)) / 4,
    }


def test_the_loss_equals_the_sum_written_out():
    loss, output = MultiTaskLoss(TASKS)(tensors(OUTPUTS), tensors(LABELS), tensors(WEIGHTS))
    expected = written_out()
    assert list(output["losses"]) == list(expected)
    for name, value in expected.items():
        assert output["losses"][name].item() == pytest.approx(value, rel=1e-6), name
    total = expected["ctr"] + 0.5 * expected["cvr"] + 2 * expected["value"]  # "measured" has weight 0
    assert loss.item() == pytest.approx(total, rel=1e-6)
    assert output["loss"].item() == loss.item()


def test_the_gradient_equals_the_derivative_written_out():
    outputs = tensors(OUTPUTS, requires_grad=True)
    MultiTaskLoss(TASKS)(outputs, tensors(LABELS), tensors(WEIGHTS))[0].backward()

    def sigmoid(a):
        return 1 / (1 + math.exp(-a))

    ctr, cvr, value, _ = OUTPUTS.values()
    expected = {
        "ctr": [(sigmoid(a) - z) / 4 if not math.isnan(z) else 0 for a, z in zip(ctr, LABELS["click"], strict=True)],
        "cvr": [0.5 * 2.0 * (sigmoid(cvr[0]) - 1) / 2.5, 0, 0.5 * 0.5 * sigmoid(cvr[2]) / 2.5, 0, 0],
        "value": [2 * 2 * (value[0] - 2) / 2, 0, 0, 2 * 2 * (value[3] - 0.25) / 2, 0],
    }
    for name, gradient in expected.items():
        assert outputs[name].grad.tolist() == pytest.approx(gradient, rel=1e-5), name
    measured = outputs["measured"].grad
    assert measured is None or not measured.any(), "weight 0: measured, not trained"


def test_predictions_are_the_tasks_own_and_detached():
    loss, output = MultiTaskLoss(TASKS)(tensors(OUTPUTS, requires_grad=True), tensors(LABELS), tensors(WEIGHTS))
    assert loss.requires_grad
    predictions = output["predictions"]
    assert predictions["ctr"].tolist() == pytest.approx([1 / (1 + math.exp(-a)) for a in OUTPUTS["ctr"]])
    assert predictions["value"].tolist() == pytest.approx([1 + 4 * o for o in OUTPUTS["value"]])
    for tensor in (output["loss"], *output["losses"].values(), *predictions.values()):
        assert not tensor.requires_grad


EMPTY_SPACES = [
    {"click": [0, 0, 0, 0, 0]},  # nobody clicked
    {"purchase": [NAN] * 5},  # every purchase is missing
    {"click": [NAN] * 5},  # padding
]


@pytest.mark.parametrize("changes", EMPTY_SPACES)
def test_an_empty_space_gives_exactly_zero(changes):
    outputs = tensors(OUTPUTS, requires_grad=True)
    loss, output = MultiTaskLoss(TASKS)(outputs, tensors(LABELS | changes), tensors(WEIGHTS))
    assert output["losses"]["cvr"].item() == 0
    loss.backward()
    assert loss.isfinite()
    assert outputs["cvr"].grad.tolist() == [0] * 5


def test_a_space_without_weight_gives_exactly_zero():
    outputs = tensors(OUTPUTS, requires_grad=True)
    loss, output = MultiTaskLoss(TASKS)(outputs, tensors(LABELS), {"rate": torch.zeros(5)})
    assert output["losses"]["cvr"].item() == 0
    loss.backward()
    assert outputs["cvr"].grad.tolist() == [0] * 5


def test_nested_spaces_are_the_rows_inside_each():
    """Rows: inside both; no cart; no click; cart unknown; purchase unknown; inside both."""
    labels = {"click": [1, 1, 0, 1, 1, 1], "cart": [1, 0, 1, NAN, 1, 1], "purchase": [1, 0, 1, 1, NAN, 0]}
    logit = [0.3, 5.0, 5.0, 5.0, 5.0, -1.2]
    outputs = tensors({"cvr": logit}, requires_grad=True)
    loss, _ = MultiTaskLoss([BinaryTask("cvr", "purchase", label_space=("click", "cart"))])(
        outputs, tensors(labels), {}
    )
    assert loss.item() == pytest.approx((bce(0.3, 1) + bce(-1.2, 0)) / 2, rel=1e-6)
    loss.backward()
    assert outputs["cvr"].grad.nonzero().flatten().tolist() == [0, 5]


def test_no_row_at_all_gives_zero():
    nothing = {name: [] for name in (*OUTPUTS, *LABELS, *WEIGHTS)}
    outputs = tensors(nothing, requires_grad=True)
    loss, output = MultiTaskLoss(TASKS)(outputs, tensors(nothing), tensors(nothing))
    loss.backward()
    assert loss.item() == 0
    assert all(value.item() == 0 for value in output["losses"].values())


def test_missing_labels_and_weights_reach_no_gradient():
    """NaN times 0 is NaN: a mask that multiplies would poison every parameter."""
    objective = make_objective([BinaryTask("ctr", "click", sample_weight="rate"), BinaryTask("ctcvr", "purchase")])
    labels = {"click": [1, NAN, 0, NAN], "purchase": [NAN, NAN, NAN, 1]}
    loss, output, gradient = gradient_of(objective, make_batch(labels, {"rate": [1.0, NAN, 1.0, NAN]}))
    assert loss.isfinite()
    assert all(value.isfinite() for value in output["losses"].values())
    for name, value in gradient.items():
        assert value.isfinite().all(), name
        assert value.count_nonzero(), name


def test_missing_rows_leave_the_gradient_of_the_others():
    """Rows of padding behind a batch change nothing."""
    objective = make_objective([BinaryTask("ctr", "click"), BinaryTask("ctcvr", "purchase")])
    true = make_batch({"click": [1, 0, 1], "purchase": [1, 0, 0]}, seed=1)
    padding = make_batch({"click": [NAN] * 4, "purchase": [NAN] * 4}, seed=2)
    loss, _, gradient = gradient_of(objective, true)
    padded_loss, _, padded = gradient_of(objective, concatenated([true, padding]))
    torch.testing.assert_close(padded_loss, loss)
    for name in gradient:
        torch.testing.assert_close(padded[name], gradient[name], msg=lambda text, name=name: f"{name}: {text}")


def test_the_objective_is_its_model_and_its_loss():
    tasks = [BinaryTask("ctr", "click"), BinaryTask("ctcvr", "purchase", weight=3.0)]
    objective = make_objective(tasks)
    batch = make_batch({"click": [1, 0, 1], "purchase": [1, 0, 0]})
    loss, output = objective(batch)
    logits = objective.model(batch)
    p_click, p_both = (logits[name].double().sigmoid().tolist() for name in ("ctr", "ctcvr"))
    ctr = -(math.log(p_click[0]) + math.log(1 - p_click[1]) + math.log(p_click[2])) / 3
    ctcvr = -(math.log(p_both[0]) + math.log(1 - p_both[1]) + math.log(1 - p_both[2])) / 3
    assert loss.item() == pytest.approx(ctr + 3 * ctcvr, rel=1e-5)
    assert output["predictions"]["ctcvr"].tolist() == pytest.approx(p_both, rel=1e-5)
    assert objective.tasks == tuple(tasks)


class Product(Balancer):
    """A rule from outside that is not linear."""

    def forward(self, losses):
        return (losses * self.weights).prod()


def test_a_balancer_gets_the_trained_losses_and_their_weights():
    loss, _ = MultiTaskLoss(TASKS, balancer=Product)(tensors(OUTPUTS), tensors(LABELS), tensors(WEIGHTS))
    expected = written_out()
    assert loss.item() == pytest.approx(expected["ctr"] * 0.5 * expected["cvr"] * 2 * expected["value"], rel=1e-6)


# --- errors


def test_a_task_that_names_no_output_gets_a_hint():
    text = "Task 'ctcv' names no output. The towers and links make ['ctr', 'cvr', 'ctcvr']; did you mean 'ctcvr'?"
    with pytest.raises(ValueError, match=re.escape(text)):
        make_objective([BinaryTask("ctr", "click"), BinaryTask("ctcv", "purchase")])


def test_a_task_that_resembles_no_output_is_refused():
    text = "Task 'dwell' names no output. The towers and links make ['ctr', 'cvr', 'ctcvr']."
    with pytest.raises(ValueError, match=re.escape(text)):
        make_objective([BinaryTask("dwell", "seconds")])


@pytest.mark.parametrize(
    ("tasks", "towers"),
    [
        ([BinaryTask("ctr", "click")], ["cvr"]),
        ([BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase", weight=0.0)], ["cvr"]),
        ([BinaryTask("ctcvr", "purchase", weight=0.0)], ["ctr", "cvr"]),
        ([], ["ctr", "cvr"]),
    ],
)
def test_a_tower_that_no_trained_task_reaches_is_refused(tasks, towers):
    trained = [task.name for task in tasks if task.weight]
    text = f"Towers {towers} reach no trained task, so they would stay at random"
    with pytest.raises(ValueError, match=re.escape(text) + f".*{re.escape(f'Trained: {trained}')}"):
        make_objective(tasks)


def test_a_tower_is_reached_through_a_link():
    objective = make_objective([BinaryTask("ctcvr", "purchase"), BinaryTask("cvr", "purchase", "click", weight=0.0)])
    _, _, gradient = gradient_of(objective, make_batch({"click": [1, 0], "purchase": [1, 0]}))
    assert all(value.count_nonzero() for name, value in gradient.items() if "towers" in name)


def test_a_link_that_nothing_reads_is_refused():
    text = (
        "Links ['ctcvr'] are read by no task and no other link. Give each a task of its name (weight 0: only "
        "measured), or remove it. Tasks: ['ctr', 'cvr']."
    )
    tasks = [BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase", label_space="click")]
    with pytest.raises(ValueError, match=re.escape(text)):
        make_objective(tasks)
    make_objective([*tasks, BinaryTask("ctcvr", "purchase", weight=0.0)])  # measured is read
    links = [("ctcvr", ("ctr", "cvr")), ("again", ("ctcvr", "ctr"))]
    make_objective([*tasks, BinaryTask("again", "purchase")], links=links)  # read by a link that a task reads


def test_a_task_is_named_once():
    tasks = [BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase"), BinaryTask("ctr", "like")]
    with pytest.raises(ValueError, match=re.escape("Task names must differ, but found ['ctr', 'cvr', 'ctr']")):
        make_objective(tasks)
    with pytest.raises(ValueError, match="Task names must differ"):
        MultiTaskLoss(tasks)


@pytest.mark.parametrize("tasks", [[], [BinaryTask("ctr", "click", weight=0.0)]])
def test_one_task_must_be_trained(tasks):
    names = re.escape(str([task.name for task in tasks]))
    with pytest.raises(ValueError, match=rf"At least one task must be trained \(weight above 0\), but all of {names}"):
        MultiTaskLoss(tasks)


def test_a_task_takes_as_many_values_as_its_output_has():
    """With as many rows as values, [B, K] and [B] broadcast: the loss would be wrong without a word."""
    batch = make_batch({"click": [1, 0]})
    model = make_model(towers=("ctr",), links=(), outputs=2)
    with pytest.raises(ValueError, match=r"Task 'ctr'.*\b1\b.*\b2\b|Task 'ctr'.*\b2\b.*\b1\b"):
        MultiTaskObjective(model, [BinaryTask("ctr", "click")])(batch)


# --- several ranks: the update is that of one process on the concatenated batch

ROWS = 200
RANK_TASKS = [
    BinaryTask("ctr", "click"),
    BinaryTask("cvr", "purchase", label_space="click", sample_weight="rate"),
]
CLICKS = {"one and many": (1, 100), "none and many": (0, 100), "nowhere": (0, 0)}


def rank_batch(clicks, rank):
    generator = torch.Generator().manual_seed(10 + rank)
    click = torch.zeros(ROWS)
    click[:clicks] = 1
    purchase = click * (torch.rand(ROWS, generator=generator) < (0.9 if rank == 0 else 0.3))
    purchase[:1] = click[:1]  # the one clicked row of rank 0 converts: its rank's mean differs from the global one
    return make_batch(
        {"click": click, "purchase": purchase}, {"rate": 0.5 + torch.rand(ROWS, generator=generator)}, seed=20 + rank
    )


def rank_objective():
    return make_objective(RANK_TASKS, links=())


def train_on_rank():
    """Each case's losses, this rank's own gradient, and its mean over ranks: what data-parallel training applies."""
    with distributed() as runtime:
        found = {}
        for case, clicks in CLICKS.items():
            rank = runtime.rank.index
            objective = rank_objective()
            loss, output, own = gradient_of(objective, rank_batch(clicks[rank], rank))
            mean = {name: value.clone() for name, value in own.items()}
            for value in mean.values():
                dist.all_reduce(value)
                value.div_(runtime.rank.world_size)
            found[case] = {
                "losses": [loss.item(), *(value.item() for value in output["losses"].values())],
                "own": own,
                "mean": mean,
                "rows": {name: len(value) for name, value in output["predictions"].items()},
            }
        return found


@pytest.fixture(scope="module")
def two_ranks():
    return run_on_ranks(train_on_rank, 2)


def flat(gradient):
    return torch.cat([value.flatten() for value in gradient.values()]).double()


def relative_distance(found, expected):
    return ((flat(found) - flat(expected)).norm() / flat(expected).norm()).item()


@pytest.mark.parametrize("case", CLICKS)
def test_two_ranks_have_the_gradient_of_one_process(two_ranks, case):
    batches = [rank_batch(clicks, rank) for rank, clicks in enumerate(CLICKS[case])]
    loss, output, expected = gradient_of(rank_objective(), concatenated(batches))
    for rank in range(2):
        found = two_ranks[rank][case]
        assert relative_distance(found["mean"], expected) < 1e-6
        losses = [loss.item(), *(value.item() for value in output["losses"].values())]
        assert found["losses"] == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("case", ["one and many", "none and many"])
def test_a_mean_of_rank_means_would_have_another_gradient(case):
    """Guards the test above: were each rank to average over its own clicks, it would fail by far."""
    batches = [rank_batch(clicks, rank) for rank, clicks in enumerate(CLICKS[case])]
    _, _, expected = gradient_of(rank_objective(), concatenated(batches))
    alone = [gradient_of(rank_objective(), batch)[2] for batch in batches]
    naive = {name: (alone[0][name] + alone[1][name]) / 2 for name in expected}
    assert relative_distance(naive, expected) > 0.05


def test_a_rank_without_a_click_contributes_exactly_zero(two_ranks):
    own = two_ranks[0]["none and many"]["own"]
    conversion = {name: value for name, value in own.items() if "towers.1" in name}
    assert len(conversion) == 4  # two layers, each a weight and a bias
    assert all(torch.equal(value, torch.zeros_like(value)) for value in conversion.values())
    assert all(value.isfinite().all() for value in own.values())
    clicks = {name: value for name, value in own.items() if "towers.0" in name}
    assert all(value.count_nonzero() for value in clicks.values()), "its impressions count all the same"


def test_no_click_on_any_rank_is_a_loss_of_zero(two_ranks):
    for rank in range(2):
        _, _, conversion = two_ranks[rank]["nowhere"]["losses"]
        assert conversion == 0
        assert all(value.isfinite().all() for value in two_ranks[rank]["nowhere"]["own"].values())


@pytest.mark.parametrize("case", CLICKS)
def test_losses_are_equal_on_every_rank_and_predictions_its_own(two_ranks, case):
    assert two_ranks[0][case]["losses"] == two_ranks[1][case]["losses"]
    assert two_ranks[0][case]["rows"] == two_ranks[1][case]["rows"] == {"ctr": ROWS, "cvr": ROWS}


# --- what is found when the objective is built


def heads_of(widths, links):
    return TaskHeads({name: Tower(8, hidden=[4], outputs=k) for name, k in widths.items()}, links)


def built(widths, links, tasks):
    trunk = SharedBottom(FEATURES.width, len(widths), layers=[8])
    return MultiTaskObjective(MultiTaskModel(make_embeddings(), trunk, heads_of(widths, links)), tasks)


CTR, CVR = BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase", label_space="click")


@pytest.mark.parametrize(
    ("widths", "links", "tasks", "text"),
    [
        (
            {"ctr": 1, "value": 3},
            [ProbabilityProduct("both", of=("ctr", "value"))],
            [CTR, BinaryTask("both", "purchase")],
            r"ProbabilityProduct 'both' reads 'value' as one logit a row, but it has 3 values\. Name an output of one",
        ),
        (
            {"ctr": 1, "value": 3},
            [ExpectedValue("gmv", of=("value", "ctr"))],
            [CTR, ZeroInflatedLogNormalTask("value", "value"), RegressionTask("gmv", "value")],
            r"ExpectedValue 'gmv' reads 'value' as one logit a row, but it has 3 values",
        ),
        (
            {"ctr": 1, "value": 1},
            [ExpectedValue("gmv", of=("ctr", "value"))],
            [CTR, ZeroInflatedLogNormalTask("value", "value"), RegressionTask("gmv", "value")],
            r"Task 'value' takes 3 values a row, but its output has 1\. Give its tower outputs=3",
        ),
        (
            {"ctr": 1, "cvr": 1},
            [Joined("ips", of=("ctr", "cvr"))],
            [CTR, CVR, InversePropensityTerm("ips", "purchase", click="click")],
            r"Task 'ips' reads outputs that predict \['purchase', 'click'\], in this order, but it is made of "
            r"\['ctr', 'cvr'\], and 'ctr' predicts 'click'\. Name them in the other order",
        ),
    ],
    ids=["product", "value first", "narrow tower", "reversed"],
)
def test_what_does_not_fit_is_found_before_any_row(widths, links, tasks, text):
    with pytest.raises(ValueError, match=text):
        built(widths, links, tasks)


def test_looking_at_widths_leaves_the_heads_as_they_were():
    heads = heads_of({"ctr": 1, "cvr": 1}, [ProbabilityProduct("ctcvr", of=("ctr", "cvr"))])
    assert heads.training
    frozen = heads.towers[1].eval()
    trunk = SharedBottom(FEATURES.width, 2, layers=[8])
    tasks = [CTR, BinaryTask("ctcvr", "purchase")]
    objective = MultiTaskObjective(MultiTaskModel(make_embeddings(), trunk, heads), tasks)
    assert [module for module in objective.modules() if not module.training] == list(frozen.modules())
    assert all(parameter.grad is None for parameter in objective.parameters())
