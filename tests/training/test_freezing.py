"""Frozen parts keep every bit while the rest trains."""

import pytest
import torch
from torch import nn

from tests.ranks import run_on_ranks
from tests.small import make_batch, make_embeddings
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.mlp import LayerOptions
from torchrec_mtl.tasks import BinaryTask
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
        shards = value.local_shards() if hasattr(value, "local_shards") else None
        value = torch.cat([shard.tensor for shard in shards]) if shards else value
        found[name] = value.detach().clone() if isinstance(value, torch.Tensor) else torch.zeros(0)
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
            (sharding, tuple(parts)): changed(trained(frozen(parts), sharding)) for sharding in SHARDINGS for parts in names
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
            assert found[sharding, ("tables.shop",)] <= everything - {SHOP}
            assert found[sharding, ("tables.shop",)] >= everything - {SHOP} - ({RECENT} if ranks == 2 else set())
            assert found[sharding, ("tables", "trunk")] == towers["ctr"] | towers["cvr"]
            assert found[sharding, ("tables", "towers.ctr")] == trunk | towers["cvr"]
        for sharding in SHARDINGS[:2]:
            assert found[sharding, ("trunk", "towers")] == {SHOP, RECENT}
