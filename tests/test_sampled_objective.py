"""Training on rows whose zeros were thinned out: by hand, in expectation, by simulation, and on two ranks."""

import math
import re

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.heads.test_heads import Pick
from tests.small import make_batch, make_embeddings, make_model
from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, NegativeSampling, SparseFeature, Table
from torchrec_mtl.heads import (
    AlternativePaths,
    ClickThenBuy,
    ExpectedValue,
    Joined,
    Link,
    ProbabilityProduct,
    TaskHeads,
    Tower,
)
from torchrec_mtl.loss import MultiTaskLoss
from torchrec_mtl.tasks import (
    BinaryTask,
    BoughtProductTask,
    InversePropensityTerm,
    MulticlassTask,
    RegressionTask,
)
from torchrec_mtl.testing import parity
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableOptimizer, TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import MMoE, SharedBottom

NAN = float("nan")
SAMPLING = NegativeSampling("click", column="keep")
TASKS = [
    BinaryTask("ctr", "click"),
    BinaryTask("ctcvr", "purchase"),
    BinaryTask("cvr", "purchase", label_space="click", weight=0.0),
    BinaryTask("like", "like", sample_weight="age"),
]
LABELS = {"click": [1, 0, 0, NAN, 1], "purchase": [1, 0, 0, 0, 0], "like": [0, 1, 0, 1, NAN]}
WEIGHTS = {SAMPLING.key: [0.5, 0.25, 0.1, 0.2, 1.0], "age": [1.0, 2.0, 3.0, 4.0, 5.0]}


def sampled_objective(tasks=TASKS, sampling=SAMPLING, towers=("ctr", "cvr", "like")):
    return MultiTaskObjective(make_model(towers=towers), tasks, sampling=sampling)


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def bce(p, z):
    return -math.log(p if z else 1 - p)


def logits(objective, batch):
    """What the towers say of all rows, in float64."""
    return {name: output.double().tolist() for name, output in objective.model(batch).items()}


def kept(objective, batch):
    """Probabilities among the rows that were kept, written out from the towers' logits."""
    a = logits(objective, batch)
    ctr = [sigmoid(x - math.log(w)) for x, w in zip(a["ctr"], WEIGHTS[SAMPLING.key], strict=True)]
    cvr = [sigmoid(x) for x in a["cvr"]]
    product = [p * q for p, q in zip(ctr, cvr, strict=True)]
    return {"ctr": ctr, "cvr": cvr, "ctcvr": product, "like": [sigmoid(x) for x in a.get("like", [])]}


def test_while_training_predictions_are_those_of_the_rows_that_were_kept():
    objective, batch = sampled_objective(), make_batch(LABELS, WEIGHTS)
    _, output = objective(batch)
    for name, expected in kept(objective, batch).items():
        assert output["predictions"][name].tolist() == pytest.approx(expected, rel=1e-5), name


def test_in_eval_mode_they_are_those_of_all_rows():
    objective, batch = sampled_objective().eval(), make_batch(LABELS, WEIGHTS)
    _, output = objective(batch)
    a = logits(objective, batch)
    for name in ("ctr", "cvr", "like"):
        assert output["predictions"][name].tolist() == pytest.approx([sigmoid(x) for x in a[name]], rel=1e-5), name
    product = [sigmoid(x) * sigmoid(y) for x, y in zip(a["ctr"], a["cvr"], strict=True)]
    assert output["predictions"]["ctcvr"].tolist() == pytest.approx(product, rel=1e-5)


def test_the_loss_while_training_written_out():
    """Weights 1/w only where no offset helps: for "like", 1 for a click or an unknown one, 4 and 10 for the zeros."""
    objective, batch = sampled_objective(), make_batch(LABELS, WEIGHTS)
    loss, output = objective(batch)
    p = kept(objective, batch)
    rows = {
        "ctr": (bce(p["ctr"][0], 1) + bce(p["ctr"][1], 0) + bce(p["ctr"][2], 0) + bce(p["ctr"][4], 1)) / 4,
        "ctcvr": (bce(p["ctcvr"][0], 1) + sum(bce(x, 0) for x in p["ctcvr"][1:])) / 5,
        "cvr": (bce(p["cvr"][0], 1) + bce(p["cvr"][4], 0)) / 2,
        "like": (
            1 * bce(p["like"][0], 0) + 2 * 4 * bce(p["like"][1], 1) + 3 * 10 * bce(p["like"][2], 0)
            + 4 * bce(p["like"][3], 1)
        ) / (1 + 2 * 4 + 3 * 10 + 4),
    }  # fmt: skip
    for name, expected in rows.items():
        assert output["losses"][name].item() == pytest.approx(expected, rel=1e-5), name
    assert loss.item() == pytest.approx(rows["ctr"] + rows["ctcvr"] + rows["like"], rel=1e-5)


def test_in_eval_mode_every_loss_is_weighted():
    objective, batch = sampled_objective().eval(), make_batch(LABELS, WEIGHTS)
    _, output = objective(batch)
    p = [sigmoid(x) for x in logits(objective, batch)["ctr"]]
    expected = (bce(p[0], 1) + 4 * bce(p[1], 0) + 10 * bce(p[2], 0) + bce(p[4], 1)) / (1 + 4 + 10 + 1)
    assert output["losses"]["ctr"].item() == pytest.approx(expected, rel=1e-5)


def test_inside_the_labels_space_nothing_is_weighted():
    """Among clicks no row is missing: whatever the rates, the loss is the same."""
    losses = []
    for rates in (WEIGHTS[SAMPLING.key], [1.0] * 5):
        objective, batch = sampled_objective(), make_batch(LABELS, WEIGHTS | {SAMPLING.key: rates})
        losses.append(objective(batch)[1]["losses"]["cvr"].item())
    assert losses[0] == losses[1]


def test_a_rate_of_1_changes_nothing():
    batch = make_batch(LABELS, WEIGHTS | {SAMPLING.key: [1.0] * 5})
    sampled, plain = (sampled_objective(sampling=sampling)(batch)[0] for sampling in (SAMPLING, None))
    assert sampled.item() == plain.item()


class Pair(Link):
    """Two outputs side by side."""

    def forward(self, outputs):
        return torch.stack([outputs[name] for name in self.of], dim=1)


class InversePropensity(BinaryTask):
    """A term of the loss that is no likelihood: each click's cross-entropy over the chance of the click."""

    outputs, served, columns = 2, False, ("click", "purchase")

    def loss(self, output, target):
        click, purchase = target.unbind(1)
        return click * super().loss(output[:, 0], purchase) / output[:, 1].sigmoid().detach()


def test_a_term_that_is_not_served_sees_all_rows():
    """The mean over all impressions of y·δ/p needs p of all impressions, and as many of them as there were."""
    model = make_model(links=(("ctcvr", ("ctr", "cvr")),))
    model.heads = TaskHeads(
        dict(zip(("ctr", "cvr"), model.heads.towers, strict=True)), [*model.heads.links, Pair("ips", of=("cvr", "ctr"))]
    )
    tasks = [*TASKS[:3], InversePropensity("ips", "purchase")]
    objective, batch = MultiTaskObjective(model, tasks, sampling=SAMPLING), make_batch(LABELS, WEIGHTS)
    losses = objective(batch)[1]["losses"]
    p = {name: [sigmoid(x) for x in objective.model(batch)[name].tolist()] for name in ("ctr", "cvr")}
    # rows with a known click: 0 and 4 are clicks, 1 and 2 stand for 4 and 10 without one
    expected = (bce(p["cvr"][0], 1) / p["ctr"][0] + bce(p["cvr"][4], 0) / p["ctr"][4]) / (1 + 4 + 10 + 1)
    assert losses["ips"].item() == pytest.approx(expected, rel=1e-5)
    clicks = [bce(q, z) for q, z in zip(kept(objective, batch)["ctr"], LABELS["click"], strict=True)]
    assert losses["ctr"].item() == pytest.approx((clicks[0] + clicks[1] + clicks[2] + clicks[4]) / 4, rel=1e-5)


def test_padding_reaches_no_gradient():
    labels = {name: [*column, NAN, NAN] for name, column in LABELS.items()}
    weights = {SAMPLING.key: [*WEIGHTS[SAMPLING.key], 1.0, 0.0], "age": [*WEIGHTS["age"], 0.0, 0.0]}
    objective = sampled_objective()
    objective(make_batch(labels, weights))[0].backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad.isfinite().all(), name


# --- in expectation

P_CLICK, P_BUY, RATE = [0.002, 0.05, 0.3, 0.9], [0.4, 0.01, 0.6, 0.2], [0.01, 0.1, 0.5, 1.0]


def expected_gradient(offset):
    """The gradient, at the true logits of all rows, of the loss that is expected among the rows that are kept."""
    share = [(1 - p, p * (1 - q), p * q) for p, q in zip(P_CLICK, P_BUY, strict=True)]  # no click, click, purchase
    cells = [(i, outcome) for i in range(4) for outcome in range(3)]
    logit = torch.tensor([[math.log(p[i] / (1 - p[i])) for p in (P_CLICK, P_BUY)] for i, _ in cells])
    shared = logit.unsqueeze(2).requires_grad_()  # [B, 2, 1], which the towers hand on as it stands
    rate = torch.tensor([RATE[i] for i, _ in cells])
    expected = torch.tensor([share[i][outcome] for i, outcome in cells])
    expected = torch.where(torch.tensor([outcome == 0 for _, outcome in cells]), expected * rate, expected)
    heads = TaskHeads({"ctr": Pick(), "cvr": Pick()}, [ProbabilityProduct("ctcvr", of=("ctr", "cvr"))])
    weights = {SAMPLING.key: rate, "expected": expected}
    outputs = heads(shared)
    if offset:
        outputs = heads.moved(outputs, {"ctr": SAMPLING.offset(weights)})
    labels = {
        "click": torch.tensor([float(outcome > 0) for _, outcome in cells]),
        "purchase": torch.tensor([float(outcome == 2) for _, outcome in cells]),
    }
    tasks = [
        BinaryTask(name, label, sample_weight="expected") for name, label in (("ctr", "click"), ("ctcvr", "purchase"))
    ]
    MultiTaskLoss(tasks, sampling=SAMPLING, offset=["ctr", "ctcvr"])(outputs, labels, weights)[0].backward()
    return shared.grad[:, :, 0].view(4, 3, 2).sum(1)  # by kind of impression and tower


def test_the_truth_about_all_rows_is_where_training_ends():
    """Through both losses: the click's own and, with no weight and no correction of its own, the product's."""
    assert expected_gradient(offset=True).abs().max() < 1e-7
    assert expected_gradient(offset=False)[:3].abs().max() > 1e-2, "without the offset it does not stop there"


# --- by simulation: two million impressions, of which most without a click are lost

SHOPS, IMPRESSIONS = 20, 100_000
OUTCOMES = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]  # click, purchase, like


def simulated(seed=0):
    """Impressions by shop and outcome; who clicks is five times as likely to like."""
    rng = np.random.default_rng(seed)
    click, buy = np.geomspace(0.01, 0.2, SHOPS), rng.permutation(np.linspace(0.05, 0.5, SHOPS))
    like = np.array([0.1, 0.5])
    p = np.array([[
        (click[s] if c else 1 - click[s]) * ((buy[s] if b else 1 - buy[s]) if c else 1)
        * (like[c] if k else 1 - like[c])
        for c, b, k in OUTCOMES] for s in range(SHOPS)])  # fmt: skip
    return np.array([rng.multinomial(IMPRESSIONS, row / row.sum()) for row in p])


def thinned(counts, rate):
    """The impressions that are kept where each without a click is kept by chance."""
    rng = np.random.default_rng(1)
    kept = counts.copy()
    for outcome in (0, 1):
        kept[:, outcome] = rng.binomial(counts[:, outcome], rate)
    return kept


def batch_of(counts, rate):
    """One row for each shop and outcome, weighted by its number of impressions."""
    shop = torch.arange(SHOPS).repeat_interleave(len(OUTCOMES))
    columns = torch.tensor(OUTCOMES * SHOPS, dtype=torch.float32).unbind(1)
    return MultiTaskBatch(
        dense=torch.zeros(len(shop), 0),
        sparse=KeyedJaggedTensor.from_lengths_sync(["shop"], shop, torch.ones_like(shop)),
        labels=dict(zip(("click", "purchase", "like"), columns, strict=True)),
        weights={
            "rows": torch.tensor(counts.flatten() / counts.mean(), dtype=torch.float32),
            SAMPLING.key: torch.tensor(rate, dtype=torch.float32).repeat_interleave(len(OUTCOMES)),
        },
    )


def trained(counts, rate, sampling):
    """Each shop's probabilities, by maximum likelihood."""
    torch.manual_seed(0)
    features = Features([Table("shop", SHOPS, 16)], [SparseFeature("shop")])
    names = ("ctr", "cvr", "like")
    heads = TaskHeads({name: Tower(32, hidden=[]) for name in names}, [ProbabilityProduct("ctcvr", of=("ctr", "cvr"))])
    model = MultiTaskModel(make_embeddings(features), SharedBottom(16, 3, layers=[32]), heads)
    labels = {"ctr": "click", "ctcvr": "purchase", "like": "like"}
    tasks = [BinaryTask(name, label, sample_weight="rows") for name, label in labels.items()]
    objective = MultiTaskObjective(model, tasks, sampling=sampling)
    batch = batch_of(counts, rate)
    optimizer = torch.optim.LBFGS(
        objective.parameters(), max_iter=1000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss, _ = objective(batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    objective.eval()
    with torch.no_grad():
        outputs = objective.model(batch)
    return {name: output[:: len(OUTCOMES)].double().sigmoid().numpy() for name, output in outputs.items()}


RATES = {"one rate": np.full(SHOPS, 0.1), "a rate a row": np.tile([0.05, 0.4, 0.1, 0.2], SHOPS // 4)}


@pytest.fixture(scope="module", params=RATES)
def simulation(request):
    counts, rate = simulated(), RATES[request.param]
    return counts, rate, trained(thinned(counts, rate), rate, SAMPLING)


def test_the_mean_click_and_purchase_rates_are_those_of_all_impressions(simulation):
    """The standard error from losing rows is 0.2 % of the click rate, so 2 % is far beyond chance."""
    counts, _, found = simulation
    clicks, purchases = counts[:, 2:].sum() / counts.sum(), counts[:, 4:].sum() / counts.sum()
    assert found["ctr"].mean() == pytest.approx(clicks, rel=0.02)
    assert found["ctcvr"].mean() == pytest.approx(purchases, rel=0.02)


def test_every_shop_is_right_and_ranks_where_all_impressions_rank_it(simulation):
    counts, _, found = simulation
    rate = counts[:, 2:].sum(1) / counts.sum(1)
    np.testing.assert_allclose(found["ctr"], rate, rtol=0.06)
    assert np.array_equal(np.argsort(found["ctr"]), np.argsort(rate))


def test_the_conversion_rate_is_that_of_the_clicks(simulation):
    counts, _, found = simulation
    np.testing.assert_allclose(found["cvr"], counts[:, 4:].sum(1) / counts[:, 2:].sum(1), rtol=0.02)


def test_another_behaviour_of_all_impressions_is_weighted_right(simulation):
    counts, _, found = simulation
    assert found["like"].mean() == pytest.approx(counts[:, 1::2].sum() / counts.sum(), rel=0.02)


def test_undeclared_sampling_is_far_off():
    """Guards the tests above."""
    counts, rate = simulated(), RATES["one rate"]
    found = trained(thinned(counts, rate), rate, None)
    assert found["ctr"].mean() > 4 * counts[:, 2:].sum() / counts.sum()
    assert found["like"].mean() > 1.3 * counts[:, 1::2].sum() / counts.sum()


# --- which towers


def test_two_towers_of_the_label_are_both_corrected():
    tasks = [BinaryTask("ctr", "click"), BinaryTask("like", "click"), BinaryTask("ctcvr", "purchase")]
    objective, batch = sampled_objective(tasks), make_batch(LABELS, WEIGHTS)
    assert objective.sampled_towers == ("ctr", "like")
    a, found = logits(objective, batch), objective(batch)[1]["predictions"]
    for name in ("ctr", "like"):
        expected = [sigmoid(x - math.log(w)) for x, w in zip(a[name], WEIGHTS[SAMPLING.key], strict=True)]
        assert found[name].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_label_predicted_inside_a_space_is_weighted_instead():
    """Purchases sampled: rows without a click are missing too, which no offset of the conversion tower can mend."""
    sampling = NegativeSampling("purchase", column="keep")
    objective = sampled_objective(TASKS[:3], sampling, towers=("ctr", "cvr"))
    batch = make_batch(LABELS, {sampling.key: WEIGHTS[SAMPLING.key]})
    assert objective.sampled_towers == ()
    p = {name: [sigmoid(x) for x in a] for name, a in logits(objective, batch).items()}
    w = [1, 4, 10, 5, 1]  # the first row is a purchase
    losses = objective(batch)[1]["losses"]
    click = {i: z for i, z in enumerate(LABELS["click"]) if i != 3}
    expected = sum(w[i] * bce(p["ctr"][i], z) for i, z in click.items()) / sum(w[i] for i in click)
    assert losses["ctr"].item() == pytest.approx(expected, rel=1e-5)
    expected = sum(w[i] * bce(p["ctcvr"][i], z) for i, z in enumerate(LABELS["purchase"])) / sum(w)
    assert losses["ctcvr"].item() == pytest.approx(expected, rel=1e-5)


def test_a_label_that_no_tower_predicts_is_refused():
    text = (
        "Sampling of 'purchase': no tower's task predicts this label, so there is no logit to correct. Towers' tasks "
        "and their labels: {'ctr': 'click'}."
    )
    tasks = [BinaryTask("ctr", "click"), BinaryTask("ctcvr", "purchase")]
    with pytest.raises(ValueError, match=re.escape(text)):
        sampled_objective(tasks, NegativeSampling("purchase", rate=0.1), towers=("ctr", "cvr"))


def test_a_task_that_is_no_probability_of_one_logit_is_refused():
    text = "Sampling of 'click': task 'ctr' must predict it as the probability of one logit, but is a RegressionTask."
    with pytest.raises(ValueError, match=re.escape(text)):
        sampled_objective([RegressionTask("ctr", "click"), *TASKS[1:]])


# --- two ranks, through TorchRec's pipeline

STEPS = 6


def rank_batch(step, rank):
    batch = parity.make_batch(100 * step + rank, click_rate=0.1 if rank == 0 else 0.9)
    generator = torch.Generator().manual_seed(1000 + 100 * step + rank)
    batch.weights[SAMPLING.key] = 0.05 + 0.9 * torch.rand(parity.ROWS, generator=generator)
    return batch


def parity_objective(device, sampling=SAMPLING):
    # "value" is measured within purchases; "cvr" over all rows: a behaviour that needs weights
    tasks = [*parity.TASKS[:2], BinaryTask("cvr", "purchase", weight=0.5), parity.TASKS[3]]
    return MultiTaskObjective(parity.make_objective(device).model, tasks, sampling=sampling)


def train_on_rank():
    with distributed() as runtime:
        initial = parity_objective("cpu").state_dict()
        pipeline = build_train_pipeline(
            parity_objective("meta"),
            lambda p: torch.optim.SGD(p, lr=0.1),
            TableOptimizer(torch.optim.SGD, lr=0.5),
            device=runtime.device,
            constraints={table.name: TableSharding(["row_wise"]) for table in parity.FEATURES.tables},
        )
        parity.load_whole(pipeline._model.state_dict(), initial)
        batches = [rank_batch(step, runtime.rank.index) for step in range(STEPS)]
        iterator = iter(batches)
        outputs = [pipeline.progress(iterator) for _ in batches]
        losses = [parity.losses_of(output) for output in outputs]
        return losses, parity.whole(pipeline._model.state_dict()), len(pipeline._pipelined_modules)


def train_alone(sampling):
    objective = parity_objective("cpu", sampling)
    tables = [p for name, p in objective.named_parameters() if "embedding_bags" in name]
    others = [p for name, p in objective.named_parameters() if "embedding_bags" not in name]
    optimizers = [torch.optim.SGD(tables, lr=0.5), torch.optim.SGD(others, lr=0.1)]
    batches = (parity.concatenated([rank_batch(step, rank) for rank in range(2)]) for step in range(STEPS))
    return parity.train_plainly(objective, optimizers, batches)


def test_two_ranks_train_like_one_process_and_stay_pipelined():
    ranks = run_on_ranks(train_on_rank, 2)
    assert [pipelined for _, _, pipelined in ranks] == [1, 1]
    alone = train_alone(SAMPLING)
    parity.assert_equal_training(ranks[0], alone, 1e-5)
    assert ranks[0][0] == ranks[1][0]
    assert abs(alone[0][0][0] - train_alone(None)[0][0][0]) > 0.1, "without sampling the loss is another"


# --- every link, through TorchRec's pipeline, which traces what it must not run


class Branching(Link):
    """A link of one's own that asks for the shape of what it reads."""

    def forward(self, outputs):
        first = outputs[self.of[0]]
        if first.ndim != 1 or len(first) < 1:
            raise ValueError("one logit a row")
        return first + 1


LINKED = [
    ([Joined("ips", of=("cvr", "ctr"))], [InversePropensityTerm("ips", "purchase", click="click")], {}),
    (
        [ExpectedValue("gmv", of=("ctr", "cvr", "value"))],
        [
            RegressionTask("value", "value", label_space="purchase"),
            RegressionTask("gmv", "value", zero_without="purchase"),
        ],
        {},
    ),
    (
        [ClickThenBuy("bought", of=("choice", "buy"))],
        [
            MulticlassTask("choice", "product", classes=3),
            BoughtProductTask("bought", "purchase", chosen="product", products=2),
        ],
        {"choice": 3, "buy": 2},
    ),
    ([AlternativePaths("paths", of=("ctr", "cvr", "other"))], [BinaryTask("paths", "purchase")], {}),
    ([Branching("own", of=("ctr",))], [BinaryTask("own", "purchase")], {}),
]


def pipelined_losses(links, tasks, widths):
    read = {name for link in links for name in link.of} | {"ctr", "cvr"}
    torch.manual_seed(0)
    heads = TaskHeads(
        {name: Tower(16, hidden=[8], outputs=widths.get(name, 1)) for name in sorted(read)},
        [ProbabilityProduct("ctcvr", of=("ctr", "cvr")), *links],
    )
    embeddings = EmbeddingBagCollection(tables=parity.FEATURES.embedding_bag_configs(), device=torch.device("meta"))
    trunk = MMoE(parity.FEATURES.width + parity.DENSE, len(read), num_experts=2, layers=[16])
    tasks = [BinaryTask("ctr", "click"), BinaryTask("ctcvr", "purchase"), *tasks]
    with distributed() as runtime:
        pipeline = build_train_pipeline(
            MultiTaskObjective(MultiTaskModel(embeddings, trunk, heads), tasks, sampling=SAMPLING),
            lambda p: torch.optim.SGD(p, lr=0.01),
            TableOptimizer(lr=0.01),
            device=runtime.device,
        )
        batch = rank_batch(0, 1)
        batch.labels["product"] = batch.labels["click"] * (1 + torch.arange(parity.ROWS) % 2)
        output = pipeline.progress(iter([batch]))
        return {name: value.item() for name, value in output["losses"].items()}, len(pipeline._pipelined_modules)


@pytest.mark.parametrize(("links", "tasks", "widths"), LINKED, ids=["ips", "gmv", "choice", "paths", "own"])
def test_every_link_trains_on_sampled_rows_in_a_pipeline(links, tasks, widths, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    losses, pipelined = pipelined_losses(links, tasks, widths)
    assert pipelined == 1
    assert losses.keys() == {"ctr", "ctcvr", *(task.name for task in tasks)}
    assert all(math.isfinite(loss) and loss != 0 for loss in losses.values())
