"""Every trunk, present and future, trains on two ranks as in one process."""

from functools import partial

import pytest
import torch

from tests.contract import every_subclass
from tests.ranks import run_on_ranks
from tests.training.test_parity import (
    DENSE,
    FEATURES,
    assert_equal_training,
    concatenated,
    load_whole,
    losses_of,
    make_objective,
    rank_batches,
    train_plainly,
    whole,
)
from torchrec_mtl.training import TableOptimizer, TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import Trunk

STEPS, RATE = 5, 0.1
TRUNKS = every_subclass(Trunk)


def objective_with(trunk_class, device):
    return make_objective(device, partial(trunk_class, FEATURES.width + DENSE, 3))


def half(values):
    """In place of torch.rand_like: a trunk that draws draws the same everywhere."""
    return torch.full_like(values, 0.5)


def sgd(parameters):
    """Moves with the gradient itself: a step of Adam is as large for one of 1e-9, and a rounding may turn its sign."""
    return torch.optim.SGD(parameters, lr=RATE)


def train_sharded(trunks):
    torch.rand_like = half  # this process is the test's own
    with distributed() as runtime:
        return {trunk: train_on_ranks(trunk, runtime) for trunk in trunks}


def train_on_ranks(trunk_class, runtime):
    initial = objective_with(trunk_class, "cpu").state_dict()
    pipeline = build_train_pipeline(
        objective_with(trunk_class, "meta"),
        sgd,
        TableOptimizer(torch.optim.SGD, lr=RATE),
        device=runtime.device,
        constraints={table.name: TableSharding(["row_wise"]) for table in FEATURES.tables},
    )
    load_whole(pipeline._model.state_dict(), initial)
    iterator = iter(rank_batches(runtime.rank.world_size, runtime.rank.index)[:STEPS])
    outputs = [pipeline.progress(iterator) for _ in range(STEPS)]
    return [losses_of(output) for output in outputs], whole(pipeline._model.state_dict())


@pytest.fixture(scope="module")
def sharded():
    """All trunks on the same two ranks: starting processes costs more than their steps."""
    return run_on_ranks(train_sharded, 2, TRUNKS)


@pytest.mark.parametrize("trunk_class", TRUNKS)
def test_two_ranks_train_like_one_process(sharded, trunk_class, monkeypatch):
    monkeypatch.setattr(torch, "rand_like", half)
    objective = objective_with(trunk_class, "cpu")
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    steps = zip(rank_batches(2, 0)[:STEPS], rank_batches(2, 1)[:STEPS], strict=True)
    expected = train_plainly(objective, [sgd(objective.parameters())], map(concatenated, steps))
    assert sharded[0][trunk_class][0] == sharded[1][trunk_class][0], "losses are global: equal on every rank"
    assert_equal_training(sharded[0][trunk_class], expected, 1e-5)
    assert all(not torch.equal(before[name], value) for name, value in expected[1].items()), "it must have moved"
