"""A job whose training on ranks is compared with one process."""

import torch
from torchrec.distributed.types import ShardedTensor
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.heads import ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask, RegressionTask
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
    """One batch of all rows, rank after rank."""
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
