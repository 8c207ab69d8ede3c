"""Two ranks train like one unsharded process on the concatenated batches."""

import itertools

import pytest
import torch
from torchrec.distributed.types import ShardedTensor
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.ranks import run_on_ranks
from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.heads import ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask, RegressionTask
from torchrec_mtl.training import TableOptimizer, TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import MMoE

ROWS, STEPS, DENSE = 16, 20, 3
FEATURES = Features(
    tables=[Table("shop", 40, 16), Table("brand", 30, 16, pooling="mean")],
    sparse=[SparseFeature("shop"), SparseFeature("brand"), SparseFeature("recent_shops", table="shop")],
    dense=[],
)
TASKS = [
    BinaryTask("ctr", "click", sample_weight="weight"),
    BinaryTask("ctcvr", "purchase"),
    BinaryTask("cvr", "purchase", label_space="click", weight=0.0),
    RegressionTask("value", "value", label_space="purchase", weight=0.3, scale=2.0),
]


def make_trunk():
    return MMoE(FEATURES.width + DENSE, 3, num_experts=2, layers=[16])


def make_objective(device, make_trunk=make_trunk):
    torch.manual_seed(1)
    embeddings = EmbeddingBagCollection(tables=FEATURES.embedding_bag_configs(), device=torch.device(device))
    torch.manual_seed(2)
    trunk = make_trunk()
    heads = TaskHeads(
        {name: Tower(trunk.out_features, hidden=[8]) for name in ("ctr", "cvr", "value")},
        links=[ProbabilityProduct("ctcvr", of=("ctr", "cvr"))],
    )
    return MultiTaskObjective(MultiTaskModel(embeddings, trunk, heads), TASKS)


def make_batch(seed, rows=ROWS, click_rate=0.5):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.cat([torch.ones(rows), torch.randint(0, 4, (2 * rows,), generator=generator)]).int()
    sizes = [int(part.sum()) for part in lengths.view(3, rows)]
    values = [torch.randint(0, high, (n,), generator=generator) for n, high in zip(sizes, (40, 30, 40), strict=True)]
    click = (torch.rand(rows, generator=generator) < click_rate).float()
    purchase = click * (torch.rand(rows, generator=generator) < 0.5)
    value = torch.where(purchase == 1, 3 * torch.rand(rows, generator=generator), float("nan"))
    return MultiTaskBatch(
        dense=torch.randn(rows, DENSE, generator=generator),
        sparse=KeyedJaggedTensor(["shop", "brand", "recent_shops"], torch.cat(values), lengths=lengths, stride=rows),
        labels={"click": click, "purchase": purchase, "value": value},
        weights={"weight": 0.1 + torch.rand(rows, generator=generator)},
    )


def concatenated(batches):
    keys = batches[0].sparse.keys()
    jagged = [{key: batch.sparse[key] for key in keys} for batch in batches]
    return MultiTaskBatch(
        dense=torch.cat([batch.dense for batch in batches]),
        sparse=KeyedJaggedTensor(
            keys,
            torch.cat([part[key].values() for key in keys for part in jagged]),
            lengths=torch.cat([part[key].lengths() for key in keys for part in jagged]),
            stride=sum(batch.num_rows for batch in batches),
        ),
        labels={name: torch.cat([batch.labels[name] for batch in batches]) for name in batches[0].labels},
        weights={name: torch.cat([batch.weights[name] for batch in batches]) for name in batches[0].weights},
    )


def rank_batches(world_size, rank):
    """Unequal clicks on purpose: rank 0 has few, the others many."""
    return [make_batch(100 * step + rank, click_rate=0.1 if rank == 0 else 0.9) for step in range(STEPS)]


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


def train_plainly(objective, optimizers, batches):
    """The losses of each step, and the state at the end."""
    losses = []
    for batch in batches:
        loss, output = objective(batch)
        for each in optimizers:
            each.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
        losses.append(losses_of(output))
    return losses, {name: value.detach() for name, value in objective.state_dict().items()}


def losses_of(output):
    return [output["loss"].item(), *(value.item() for value in output["losses"].values())]


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


def load_whole(state, initial):
    for name, value in state.items():
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                (r, c), (h, w) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
                shard.tensor.detach().copy_(initial[name][r : r + h, c : c + w])
        else:
            value.detach().copy_(initial[name])


def whole(state):
    gathered = {}
    for name, value in state.items():
        if isinstance(value, ShardedTensor):
            out = torch.zeros(value.size()) if torch.distributed.get_rank() == 0 else None
            value.gather(0, out)
            gathered[name] = out
        else:
            gathered[name] = value.detach().clone()
    return gathered


def assert_equal_training(found, expected, tolerance):
    losses, state = expected
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(losses), atol=tolerance, rtol=tolerance)
    assert found[1].keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(found[1][name], value, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: n + m)


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
