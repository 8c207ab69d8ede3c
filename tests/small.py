"""A small objective with a funnel, and batches for it."""

import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.heads import ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.trunks import SharedBottom

FEATURES = Features(
    tables=[Table("shop", 20, 4)],
    sparse=[SparseFeature("shop"), SparseFeature("recent_shops", table="shop")],
    dense=[DenseFeature("price"), DenseFeature("age")],
)


def make_embeddings(features=FEATURES):
    return EmbeddingBagCollection(tables=features.embedding_bag_configs(), device=torch.device("cpu"))


def make_model(towers=("ctr", "cvr"), links=(("ctcvr", ("ctr", "cvr")),), outputs=1):
    torch.manual_seed(0)
    trunk = SharedBottom(FEATURES.width, len(towers), layers=[8])
    heads = TaskHeads(
        {name: Tower(8, hidden=[16], outputs=outputs) for name in towers},
        links=[ProbabilityProduct(name, of=of) for name, of in links],
    )
    return MultiTaskModel(make_embeddings(), trunk, heads)


def make_objective(tasks, **arguments):
    return MultiTaskObjective(make_model(**arguments), tasks)


def make_batch(labels, weights=None, seed=0):
    """Random features around given columns of labels and weights."""
    generator = torch.Generator().manual_seed(seed)
    columns = [
        {name: torch.as_tensor(c, dtype=torch.float32) for name, c in (d or {}).items()} for d in (labels, weights)
    ]
    rows = len(next(iter(columns[0].values())))
    lengths = torch.cat([torch.ones(rows, dtype=torch.int32), torch.randint(0, 3, (rows,), generator=generator).int()])
    return MultiTaskBatch(
        dense=torch.randn(rows, 2, generator=generator),
        sparse=KeyedJaggedTensor(
            ["shop", "recent_shops"],
            torch.randint(0, 20, (int(lengths.sum()),), generator=generator),
            lengths=lengths,
            stride=rows,
        ),
        labels=columns[0],
        weights=columns[1],
    )


def gradient_of(objective, batch):
    """Loss, output and ``{parameter: gradient}`` of one batch."""
    objective.zero_grad(set_to_none=True)
    loss, output = objective(batch)
    loss.backward()
    return loss.detach(), output, {name: parameter.grad.clone() for name, parameter in objective.named_parameters()}
