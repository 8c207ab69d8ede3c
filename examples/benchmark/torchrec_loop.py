"""The best hand-written TorchRec loop for the same mathematics, without this project."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import PoolingType
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from examples.benchmark.contender import Contender, endless, join_group
from examples.benchmark.formats import jagged
from examples.benchmark.plain_network import plain_loss, plain_network
from examples.benchmark.workload import Rows, Workload

Batch = tuple[Tensor, KeyedJaggedTensor, Tensor]  # dense, ids, labels


class PlainModel(nn.Module):
    """Pooled embeddings and dense features, then the network; SUM for single-valued features, MEAN for bags."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.embeddings = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=name,
                    num_embeddings=rows,
                    embedding_dim=workload.dimension,
                    feature_names=[name],
                    pooling=PoolingType.SUM if name in workload.single else PoolingType.MEAN,
                )
                for name, rows in workload.tables.items()
            ],
        )
        self.network = plain_network(workload)

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """Maps dense features and ids to logits ``[B, T]``."""
        return self.network(torch.cat([dense, self.embeddings(ids).values()], dim=1))


def as_tensors(rows: Rows) -> Batch:
    """Rows as tensors."""
    return torch.from_numpy(rows.dense), jagged(rows), torch.from_numpy(rows.labels)


class TorchRecLoop(Contender):
    """DistributedModelParallel, fused RowWiseAdagrad, Adam and a plain loop."""

    def __init__(self, workload: Workload, data: Path | None = None) -> None:
        super().__init__(workload, data)
        join_group()
        torch.manual_seed(workload.seed)
        model = PlainModel(workload)
        apply_optimizer_in_backward(RowWiseAdagrad, model.embeddings.parameters(), {"lr": 0.05, "eps": 1e-8})
        # table-wise, since replicated tables would have no fused optimizer
        constraints = {name: ParameterConstraints(sharding_types=["table_wise"]) for name in workload.tables}
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=1, compute_device="cpu"), constraints=constraints, debug=False
        )
        sharders = [EmbeddingBagCollectionSharder()]
        self.model = DistributedModelParallel(
            model, device=torch.device("cpu"), plan=planner.plan(model, sharders), sharders=sharders
        )
        dense = [parameter for _, parameter in in_backward_optimizer_filter(self.model.named_parameters())]
        self.optimizer = torch.optim.Adam(dense, lr=1e-3, fused=True)
        self.batches: Iterator[Batch] = endless([as_tensors(rows) for rows in self.rows()])

    def train(self, batches: int) -> float:
        """The loop."""
        for _ in range(batches):
            dense, ids, labels = next(self.batches)
            self.optimizer.zero_grad()
            loss = plain_loss(self.workload, self.model(dense, ids), labels)
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())

    @property
    def state_bytes(self) -> int:
        """RowWiseAdagrad keeps one float a row."""
        return 4 * self.workload.rows
