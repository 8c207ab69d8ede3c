"""Frozen parts keep every bit while the rest trains."""

import pytest
import torch
from torch import nn

from tests.small import make_batch, make_embeddings
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.mlp import LayerOptions
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.freezing import freeze
from torchrec_mtl.training.optimizers import TableOptimizer
from torchrec_mtl.training.pipeline import build_train_pipeline
from torchrec_mtl.training.sharding import TableSharding
from torchrec_mtl.trunks import PLE, MMoE, Separate, SharedBottom

FEATURES = Features(
    tables=[Table("shop", 20, 4), Table("recent_shops", 20, 4)],
    sparse=[SparseFeature("shop"), SparseFeature("recent_shops")],
    dense=[DenseFeature("price"), DenseFeature("age")],
)
TASKS = ("ctr", "cvr")


def make_objective(trunk=None):
    torch.manual_seed(0)
    trunk = trunk or SharedBottom(FEATURES.width, 2, layers=[8])
    heads = TaskHeads({name: Tower(trunk.out_features, hidden=[4]) for name in TASKS})
    return MultiTaskObjective(
        MultiTaskModel(make_embeddings(FEATURES), trunk, heads), [BinaryTask("ctr", "click"), BinaryTask("cvr", "buy")]
    )


def batches(number=4):
    for seed in range(number):
        generator = torch.Generator().manual_seed(100 + seed)
        labels = {name: torch.randint(0, 2, (6,), generator=generator).float() for name in ("click", "buy")}
        yield make_batch(labels, seed=seed)


def flat(model):
    found = {}
    for name, value in model.state_dict().items():
        shards = [shard.tensor for shard in value.local_shards()] if hasattr(value, "local_shards") else [value]
        shards = [shard if shard.ndim else shard.unsqueeze(0) for shard in shards]
        found[name] = torch.cat(shards).detach().clone() if shards else torch.zeros(0)  # none on this rank
    return found


def trained(objective, sharding, optimizer=None, dense=torch.optim.AdamW):
    """``(before, after)`` of some steps, and how many parameters the dense optimizer holds."""
    types = {table: TableSharding([kind]) for table, kind in zip(("shop", "recent_shops"), sharding, strict=True)}
    pipeline = build_train_pipeline(
        objective, lambda p: dense(p, lr=0.1), optimizer or TableOptimizer(lr=0.5), constraints=types
    )
    before = flat(pipeline._model)
    pipeline._model.train()
    for group in pipeline._optimizer.param_groups:
        if group["lr"] == 0.0:
            group["lr"] = 7.0  # as a schedule that knows nothing of frozen tables would
    steps = batches()
    for _ in range(4):
        pipeline.progress(steps)
    return before, flat(pipeline._model)


def changed(pair):
    before, after = pair
    assert before.keys() == after.keys()
    return {name.removeprefix("model.") for name, value in before.items() if not torch.equal(value, after[name])}


SHARDINGS = [("row_wise", "row_wise"), ("data_parallel", "data_parallel"), ("table_wise", "data_parallel")]
SHOP, RECENT = (f"embeddings.embedding_bags.{table}.weight" for table in ("shop", "recent_shops"))


def all_cases(names):
    with distributed():
        return {
            (sharding, tuple(parts)): changed(trained(frozen(parts), sharding))
            for sharding in SHARDINGS
            for parts in names
        }


def frozen(parts, trunk=None, new=()):
    objective = make_objective(trunk)
    freeze(objective, parts, new)
    return objective


PARTS = [["tables.shop"], ["tables", "trunk"], ["trunk", "towers"], ["tables", "towers.ctr"]]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_frozen_keeps_every_bit_and_the_rest_trains(ranks):
    trunk = {"trunk.bottom.0.weight", "trunk.bottom.0.bias"}
    towers = {
        name: {f"heads.towers.{i}.{layer}.{kind}" for layer in ("hidden.0", "output") for kind in ("weight", "bias")}
        for i, name in enumerate(TASKS)
    }
    everything = {SHOP, RECENT, *trunk, *towers["ctr"], *towers["cvr"]}
    for found in run_on_ranks(all_cases, ranks, PARTS):
        for sharding in SHARDINGS:
            assert found[sharding, ("tables.shop",)] == everything - {SHOP}
            assert found[sharding, ("tables", "trunk")] == towers["ctr"] | towers["cvr"]
            assert found[sharding, ("tables", "towers.ctr")] == trunk | towers["cvr"]
        for sharding in SHARDINGS[:2]:
            assert found[sharding, ("trunk", "towers")] == {SHOP, RECENT}


def rows_case():
    """A frozen trunk whose second tower is new, trained with weight decay, which also moves what has no gradient."""
    makers = {
        "MMoE": lambda: MMoE(FEATURES.width, 2, num_experts=3, layers=[8]),
        "PLE": lambda: PLE(FEATURES.width, 2, levels=[[8], [8]], shared_experts=1, task_experts=2),
        "Separate": lambda: Separate(FEATURES.width, 2, layers=[8], options=LayerOptions(0.5, norm=nn.BatchNorm1d)),
    }
    found = {}
    with distributed():
        for name, make in makers.items():
            objective = frozen(["trunk", "tables", "towers"], make(), ["towers.cvr"])
            found[name] = trained(objective, SHARDINGS[0])
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_of_a_frozen_trunk_only_what_is_the_new_towers_trains(ranks):
    for found in run_on_ranks(rows_case, ranks):
        moved = {
            kind: {name: (was != found[kind][1][name]) for name, was in before.items() if "trunk" in name}
            for kind, (before, _) in found.items()
        }
        gates = "model.trunk.levels.0.gates.scores.weight"
        assert not moved["MMoE"][gates][0].any()
        assert moved["MMoE"][gates][1].any()
        assert not any(each.any() for name, each in moved["MMoE"].items() if "experts" in name)
        own, shared = "model.trunk.levels.0.own.layers.0.weight", "model.trunk.levels.0.shared_gate.scores.weight"
        assert not moved["PLE"][own][:2].any()
        assert moved["PLE"][own][2:].any()
        assert not moved["PLE"][shared][:, [0, 1, 4]].any(), "those of the first task, and the shared expert's"
        assert moved["PLE"][shared][:, 2:4].any()
        assert not any(each.any() for name, each in moved["PLE"].items() if ".shared." in name)
        norm = "model.trunk.networks.after.0.{}.0.running_mean"
        assert not moved["Separate"][norm.format(0)].any(), "a frozen batch norm counts no batch"
        assert moved["Separate"][norm.format(1)].any()
        for before, after in found.values():
            names = [name for name in before if "towers.0" in name or "embedding_bags" in name]
            assert all(torch.equal(before[name], after[name]) for name in names)
            assert not torch.equal(
                before["model.heads.towers.1.output.weight"], after["model.heads.towers.1.output.weight"]
            )


def test_dropout_of_what_is_frozen_stays_off():
    objective = make_objective(SharedBottom(FEATURES.width, 2, layers=[8], options=LayerOptions(dropout=0.9)))
    batch = next(batches())
    freeze(objective, ["trunk"])
    objective.train()
    features = torch.randn(batch.num_rows, FEATURES.width)
    assert objective.model.heads.training
    assert torch.equal(objective.model.trunk(features), objective.model.trunk(features))


def test_a_wrong_part_is_named():
    objective = make_objective()
    with pytest.raises(
        ValueError, match=r"freeze: there is no part 'towers.clik'. Found \['tables', 'tables.shop', .*"
    ):
        freeze(objective, ["towers.clik"])
    with pytest.raises(ValueError, match=r"did you mean 'trunk'\?"):
        freeze(objective, ["trunks"])
    with pytest.raises(ValueError, match=r"freeze: \['towers.ctr'\] start anew, and frozen they would stay at random"):
        freeze(objective, ["towers.ctr"], new=["towers.ctr"])
    with pytest.raises(ValueError, match=r"freeze: \['tables', 'trunk', 'towers'\] are all there is"):
        freeze(objective, ["tables", "trunk", "towers"])
