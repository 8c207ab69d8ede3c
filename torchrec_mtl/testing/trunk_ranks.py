"""Whether a trunk trains on two ranks as in one process."""

from functools import partial
from unittest.mock import patch

import torch

from torchrec_mtl.testing.parity import (
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
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableOptimizer, TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed

STEPS, RATE = 5, 0.1


def assert_trunk_trains_alike_on_two_ranks(trunk_class, **arguments):
    """Five steps of ``trunk_class(in_features, num_tasks, **arguments)``, whose module the ranks can import."""
    make = partial(trunk_class, **arguments)
    (found,) = train_on_two_ranks([make])
    assert_trains_alike(make, found)


def train_on_two_ranks(makes):
    """For each trunk ``[(losses, state) on rank 0, ... on rank 1]``, all on the same pair of processes."""
    return list(zip(*run_on_ranks(_train_all, 2, makes), strict=True))


def assert_trains_alike(make, found):
    """Compares what two ranks found with one process on the concatenated batches."""
    objective = _objective(make, "cpu")
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    steps = zip(rank_batches(2, 0)[:STEPS], rank_batches(2, 1)[:STEPS], strict=True)
    with patch.object(torch, "rand_like", _half):
        expected = train_plainly(objective, [_sgd(objective.parameters())], map(concatenated, steps))
    assert found[0][0] == found[1][0], "losses are global: equal on every rank"
    assert_equal_training(found[0], expected, 1e-5)
    for name, value in expected[1].items():
        assert not torch.equal(before[name], value), f"{name} has not moved: nothing is compared"


def _objective(make, device):
    return make_objective(device, partial(make, FEATURES.width + DENSE, 3))


def _half(values):
    """In place of torch.rand_like: a trunk that draws draws the same everywhere."""
    return torch.full_like(values, 0.5)


def _sgd(parameters):
    """Moves with the gradient itself: a step of Adam is as large for one of 1e-9, and a rounding may turn its sign."""
    return torch.optim.SGD(parameters, lr=RATE)


def _train_all(makes):
    torch.rand_like = _half  # this process is the test's own
    with distributed() as runtime:
        return [_train(make, runtime) for make in makes]


def _train(make, runtime):
    initial = _objective(make, "cpu").state_dict()
    pipeline = build_train_pipeline(
        _objective(make, "meta"),
        _sgd,
        TableOptimizer(torch.optim.SGD, lr=RATE),
        device=runtime.device,
        constraints={table.name: TableSharding(["row_wise"]) for table in FEATURES.tables},
    )
    load_whole(pipeline._model.state_dict(), initial)
    iterator = iter(rank_batches(runtime.rank.world_size, runtime.rank.index)[:STEPS])
    outputs = [pipeline.progress(iterator) for _ in range(STEPS)]
    return [losses_of(output) for output in outputs], whole(pipeline._model.state_dict())
