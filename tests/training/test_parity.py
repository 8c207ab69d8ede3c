"""Two ranks train like one unsharded process on the concatenated batches."""

import itertools

import pytest
import torch
from torchrec.optim import RowWiseAdagrad

from torchrec_mtl.testing.parity import (
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


class HalvesAdagrad(RowWiseAdagrad):
    """Row-wise Adagrad on the two halves of every table's columns."""

    def __init__(self, parameters, **arguments):
        self.whole = list(parameters)
        self.halves = [torch.nn.Parameter(half) for p in self.whole for half in p.detach().split(8, dim=1)]
        super().__init__(self.halves, **arguments)

    def step(self, closure=None):
        grads = [half for p in self.whole for half in p.grad.split(8, dim=1)]
        for half, grad in zip(self.halves, grads, strict=True):
            half.grad = grad
        super().step(closure)

    def zero_grad(self, set_to_none=True):
        for p in self.whole:
            p.grad = None


OPTIMIZERS = {
    "rowwise_adagrad": (TableOptimizer(lr=0.05), lambda p: RowWiseAdagrad(p, lr=0.05, eps=1e-8)),
    "adagrad": (
        TableOptimizer(torch.optim.Adagrad, lr=0.05),
        lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-8),
    ),
    "sgd": (TableOptimizer(torch.optim.SGD, lr=0.5), lambda p: torch.optim.SGD(p, lr=0.5)),
    "column_sgd": (None, lambda p: torch.optim.SGD(p, lr=0.5)),
    # each column shard keeps a row-wise sum of its own columns: the reference does the same on halves of 8 columns
    "column_rowwise_adagrad": (None, lambda p: HalvesAdagrad(p, lr=0.05, eps=1e-8)),
    "adam": (TableOptimizer(torch.optim.Adam, lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}


def train_alone(optimizer, world_size=2):
    """One process, no TorchRec runtime: plain module, plain optimizers, concatenated batches."""
    objective = make_objective("cpu")
    tables = [p for name, p in objective.named_parameters() if "embedding_bags" in name]
    others = [p for name, p in objective.named_parameters() if "embedding_bags" not in name]
    optimizers = [OPTIMIZERS[optimizer][1](tables), torch.optim.Adam(others, lr=0.01)]
    steps = zip(*(rank_batches(world_size, rank) for rank in range(world_size)), strict=True)
    return train_plainly(objective, optimizers, map(concatenated, steps))


def train_sharded(cases):
    with distributed() as runtime:
        return {case: train_case(runtime, *case) for case in cases}


def train_case(runtime, sharding, optimizer, pipelined):
    initial = make_objective("cpu").state_dict()
    partition = 8 if sharding == "column_wise" else None
    pipeline = build_train_pipeline(
        make_objective("meta"),
        lambda p: torch.optim.Adam(p, lr=0.01),
        OPTIMIZERS[optimizer][0],
        device=runtime.device,
        constraints={t.name: TableSharding([sharding], partition) for t in FEATURES.tables},
    )
    model = pipeline._model
    load_whole(model.state_dict(), initial)
    batches = rank_batches(runtime.rank.world_size, runtime.rank.index)
    outputs = []
    if pipelined:
        iterator = iter(batches)
        outputs = [pipeline.progress(iterator) for _ in batches]
    else:
        for batch in batches:
            pipeline._optimizer.zero_grad()
            loss, output = model(batch)
            loss.backward()
            pipeline._optimizer.step()
            outputs.append(output)
    return [losses_of(output) for output in outputs], whole(model.state_dict()), len(pipeline._pipelined_modules)


CASES = [
    *itertools.product(["row_wise", "table_wise", "column_wise", "data_parallel"], ["rowwise_adagrad", "sgd"]),
    ("row_wise", "adagrad"),
    ("data_parallel", "adagrad"),
    ("data_parallel", "adam"),
]


@pytest.fixture(scope="module")
def sharded():
    """All cases on the same two ranks: starting processes costs more than twenty steps."""
    cases = [(*case, True) for case in CASES] + [("row_wise", "rowwise_adagrad", False)]
    return run_on_ranks(train_sharded, 2, cases)


@pytest.mark.parametrize(("sharding", "optimizer"), CASES)
def test_two_ranks_train_like_one_process(sharded, sharding, optimizer):
    for rank in range(2):
        losses, _, pipelined_modules = sharded[rank][sharding, optimizer, True]
        assert pipelined_modules == 1, "the embedding collection must be pipelined"
        assert losses == sharded[0][sharding, optimizer, True][0], "losses are global: equal on every rank"
    reference = "column_" * (sharding == "column_wise") + optimizer
    assert_equal_training(sharded[0][sharding, optimizer, True], train_alone(reference), 1e-5)


def test_pipelined_equals_unpipelined_bitwise(sharded):
    pipelined, plain = (sharded[0]["row_wise", "rowwise_adagrad", pipelined] for pipelined in (True, False))
    assert pipelined[0] == plain[0]
    assert all(torch.equal(pipelined[1][name], plain[1][name]) for name in plain[1])


def test_the_reference_itself_learns():
    """Guards the comparison: two models that never move would agree too."""
    _, state = train_alone("sgd")
    before = make_objective("cpu").state_dict()
    assert all(not torch.equal(before[name], state[name]) for name in state)
