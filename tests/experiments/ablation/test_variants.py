"""The grid: what a variant shares, and what its losses reach."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from tests.small import make_batch
from torchrec_mtl import MultiTaskBatch
from torchrec_mtl.experiments.ablation.trainings import CLIP, TRAININGS
from torchrec_mtl.experiments.ablation.variants import SHARINGS, SINGLE_TASK, Inputs, Variant, grid
from torchrec_mtl.objective import MultiTaskLoss

INPUTS = Inputs({"shop": 20, "recent_shops": 20}, dense=2)
CLICK, PURCHASE = torch.tensor([1, 1, 1, 0, 0, 1.0]), torch.tensor([1, 0, 0, 0, 0, 1.0])


def batch() -> MultiTaskBatch:
    return make_batch({"click": CLICK, "purchase": PURCHASE})


def reached(objective, loss):
    objective.zero_grad(set_to_none=True)
    loss.backward()
    return {each for name, p in objective.named_parameters() if p.grad is not None for each in moved(name, p.grad)}


def moved(name, gradient):
    """A parameter's name, or, where it holds networks of several towers, the names of those that move."""
    if ".networks." not in name:
        return [name] if gradient.any() else []
    return [f"{name}.{tower}" for tower, its in enumerate(gradient) if its.any()]


def test_the_grid_is_every_cell_once():
    # 3 sharings × (2 trainings without a product + 5 with one, on and off)
    assert len(grid()) == len(set(grid())) == len({variant.name for variant in grid()}) == 36
    assert SINGLE_TASK in grid()


@pytest.mark.parametrize("variant", grid(), ids=lambda variant: variant.name)
def test_every_variant_trains_every_parameter(variant):
    objective = variant.objective(INPUTS, seed=0)
    loss, output = objective(batch())
    assert loss.isfinite()
    assert set(output["predictions"]) >= {"ctr", "cvr"}
    found = reached(objective, loss)
    # a ReLU that is dead on six rows hides a layer; whole networks and tables must be there
    for name in ("embeddings", "trunk", "heads.towers.0", "heads.towers.1"):
        assert any(name in parameter for parameter in found)
    for i in range(len(objective.model.heads.tower_names)):
        assert any(parameter.startswith(f"model.heads.towers.{i}") for parameter in found)


@pytest.mark.parametrize(
    ("sharing", "shared"), [("none", set()), ("embeddings", {"embeddings"}), ("hidden", {"embeddings", "trunk"})]
)
@pytest.mark.parametrize("training", TRAININGS)
def test_towers_share_what_is_said_and_no_more(sharing, shared, training):
    objective = Variant(sharing, training).objective(INPUTS, seed=0)
    model, towers = objective.model, objective.model.heads.tower_names
    found = [reached(objective, model(batch())[name].sum()) for name in towers]
    for i, own in enumerate(found):
        assert any("embeddings" in name for name in own)
        for other in found[i + 1 :]:
            assert {name.split(".")[1] for name in own & other} == shared


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("training", [name for name, each in TRAININGS.items() if each.product])
@pytest.mark.parametrize("into_ctr", [True, False])
def test_the_product_teaches_pctr_if_told(sharing, training, into_ctr):
    objective = Variant(sharing, training, into_ctr).objective(INPUTS, seed=0)
    found = reached(objective, objective.model(batch())["ctcvr"].sum())
    assert any(name.startswith("model.heads.towers.0") for name in found) == into_ctr
    assert any(name.startswith("model.heads.towers.1") for name in found)


@pytest.mark.parametrize("training", ["ips", "dr", "dr_labels", "dcmt"])
def test_a_term_never_teaches_its_propensity(training):
    objective = Variant("none", training, into_ctr=True).objective(INPUTS, seed=0)
    objective(batch())
    term = next(task for task in objective.tasks if task.name == "term")
    output, rows = objective.model(batch())["term"], batch()
    found = reached(objective, term.loss(output, term.target(rows.labels)).sum())
    assert not any("ctr_" in name or name.startswith("model.heads.towers.0") for name in found)


def logits(names):
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(6, generator=generator).double() for name in names}


def loss_of(training, outputs):
    """The loss of a training, from its towers' logits."""
    recipe = TRAININGS[training].recipe(True)
    made = dict(outputs)
    for link in recipe.links:
        made[link.name] = link(made)
    return MultiTaskLoss(recipe.tasks)(made, batch().labels, {})[0].item()


def test_losses_equal_the_sums_written_out():
    """In float64 over six rows, four of them clicked, two bought."""
    outputs = logits(["ctr", "cvr", "imputation", "counterfactual"])
    a, b = outputs["ctr"], outputs["cvr"]
    p, q = a.sigmoid(), b.sigmoid()
    y, z = CLICK.double(), PURCHASE.double()
    on_click, joint = bce(a, y), -(z * (p * q).log() + (1 - z) * (1 - p * q).log()).mean()
    row = bce(b, z, reduction="none")
    weighted = (y * row / p.clamp(min=CLIP)).mean()
    assert (y * row).sum() > 0
    assert loss_of("clicks", outputs) == pytest.approx((on_click + (y * row).sum() / 4).item(), rel=1e-5)
    assert loss_of("all", outputs) == pytest.approx((on_click + row.mean()).item(), rel=1e-5)
    assert loss_of("product", outputs) == pytest.approx((on_click + joint).item(), rel=1e-5)
    assert loss_of("ips", outputs) == pytest.approx((on_click + joint + weighted).item(), rel=1e-5)


def test_the_seed_gives_the_parameters():
    first, again, other = (Variant("hidden", "ips").objective(INPUTS, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_recipes_fit_heads():
    for training in TRAININGS.values():
        for into_ctr in (True, False):
            recipe = training.recipe(into_ctr)
            assert isinstance(recipe.towers, tuple)
            assert recipe.towers[:2] == ("ctr", "cvr")
            assert {task.name for task in recipe.tasks if task.served} >= {"ctr", "cvr"}
