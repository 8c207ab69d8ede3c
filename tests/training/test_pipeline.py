"""An embedding module that falls out of the pipeline is an error."""

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl.model import MultiTaskModel
from torchrec_mtl.testing.parity import make_batch, make_objective
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import build_train_pipeline
from torchrec_mtl.training.distributed import distributed


class Rebuilding(MultiTaskModel):
    """Rebuilds the jagged tensor in forward, with which TorchRec trains on, unpipelined."""

    def forward(self, batch):
        sparse = batch.sparse
        rebuilt = KeyedJaggedTensor(
            keys=["shop", "brand", "recent_shops"], values=sparse.values(), lengths=sparse.lengths()
        )
        pooled = self.embeddings(rebuilt).values()
        return self.heads(self.trunk(torch.cat([batch.dense, pooled], dim=1)))


def train_a_step(rebuild):
    with distributed() as runtime:
        objective = make_objective("meta")
        if rebuild:
            objective.model.__class__ = Rebuilding
        pipeline = build_train_pipeline(objective, torch.optim.Adam, device=runtime.device)
        try:
            pipeline.progress(iter([make_batch(0)]))
        except RuntimeError as error:
            return str(error)
        return len(pipeline._pipelined_modules)


def both_ways():
    with distributed():
        return train_a_step(rebuild=False), train_a_step(rebuild=True)


def test_an_unpipelined_embedding_module_is_an_error():
    ((pipelined, text),) = run_on_ranks(both_ways, 1)
    assert pipelined == 1
    assert "embeddings'] are not pipelined" in text
    assert "Do not permute or rebuild a KeyedJaggedTensor in a forward" in text
