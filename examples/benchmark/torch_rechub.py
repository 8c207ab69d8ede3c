"""torch-rechub as shipped: its MMOE, trained by its own trainer with its defaults."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.benchmark.contender import Contender, endless, peer
from examples.benchmark.formats import padded
from examples.benchmark.workload import Rows, Workload

Batch = tuple[dict[str, Tensor], Tensor]


def as_inputs(workload: Workload, rows: Rows) -> Batch:
    """Rows as the library's inputs; bags are padded to the longest."""
    inputs = {name: torch.from_numpy(ids) for name, ids in rows.ids.items()}
    for name, (values, lengths) in rows.bags.items():
        inputs[name] = torch.from_numpy(padded(values, lengths, 2 * workload.bag_mean))
    inputs |= {f"dense_{i}": torch.from_numpy(rows.dense[:, i].copy()) for i in range(workload.dense)}
    return inputs, torch.from_numpy(rows.labels)


def make_trainer(workload: Workload) -> Any:
    """The library's trainer around its MMOE.

    Raises:
        NotMeasured: If the library is not installed, or the workload is not MMoE.
    """
    modules = ("torch_rechub.basic.features", "torch_rechub.models.multi_task", "torch_rechub.trainers")
    kinds, models, trainers = peer("torch-rechub", workload, *modules)
    dimension = workload.dimension
    features = [
        *(kinds.SparseFeature(name, rows, dimension) for name, rows in workload.single.items()),
        *(kinds.SequenceFeature(n, rows + 1, dimension, "mean", padding_idx=0) for n, rows in workload.bagged.items()),
        *(kinds.DenseFeature(f"dense_{i}") for i in range(workload.dense)),
    ]
    types = ["classification"] * workload.tasks
    towers = [{"dims": [64]} for _ in types]
    model = models.MMOE(features, types, workload.experts, {"dims": [256, 128]}, towers)
    return trainers.MTLTrainer(model, task_types=types)


class TorchRecHub(Contender):
    """Dense gradients and Adam over every row of every table: the trainer's default."""

    def __init__(self, workload: Workload, data: Path | None = None) -> None:
        super().__init__(workload, data)
        torch.manual_seed(workload.seed)
        self.trainer = make_trainer(workload)
        self.batches: Iterator[Batch] = endless([as_inputs(workload, rows) for rows in self.rows()])

    def train(self, batches: int) -> float:
        """One epoch of its trainer on so many batches."""
        return float(sum(self.trainer.train_one_epoch(list(islice(self.batches, batches)))))

    @property
    def state_bytes(self) -> int:
        """Adam keeps two moments."""
        return 2 * self.workload.table_bytes
