"""Plain PyTorch: one ``EmbeddingBag(sparse=True)`` a table."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from examples.benchmark.contender import Contender, endless
from examples.benchmark.plain_network import plain_loss, plain_network
from examples.benchmark.workload import Rows, Workload

Bag = tuple[Tensor, Tensor]  # ids, offsets
Batch = tuple[Tensor, list[Bag], Tensor]  # dense, bags of every feature, labels


def as_bags(rows: Rows) -> Batch:
    """Rows as tensors; a single-valued feature is a bag of one."""
    count = len(rows.dense)
    single: list[Bag] = [(torch.from_numpy(ids), torch.arange(count)) for ids in rows.ids.values()]
    bags = [
        (torch.from_numpy(values), torch.from_numpy(np.cumsum(lengths, dtype=np.int64) - lengths))
        for values, lengths in rows.bags.values()
    ]
    return torch.from_numpy(rows.dense), single + bags, torch.from_numpy(rows.labels)


class PlainTorch(Contender):
    """Sparse gradients with Adagrad for the tables, Adam for the rest."""

    def __init__(self, workload: Workload, data: Path | None = None) -> None:
        super().__init__(workload, data)
        torch.manual_seed(workload.seed)
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(rows, workload.dimension, sparse=True, mode="sum" if name in workload.single else "mean")
            for name, rows in workload.tables.items()
        )
        self.network = plain_network(workload)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adagrad(self.tables.parameters(), lr=0.05),
            torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=True),
        ]
        self.batches: Iterator[Batch] = endless([as_bags(rows) for rows in self.rows()])

    def train(self, batches: int) -> float:
        """The loop."""
        for _ in range(batches):
            dense, bags, labels = next(self.batches)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            pooled = [table(ids, offsets) for table, (ids, offsets) in zip(self.tables, bags, strict=True)]
            loss = plain_loss(self.workload, self.network(torch.cat([dense, *pooled], dim=1)), labels)
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
        return float(loss.detach())

    @property
    def state_bytes(self) -> int:
        """Adagrad keeps as much as the tables hold."""
        return self.workload.table_bytes
