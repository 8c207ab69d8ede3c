"""DeepCTR-Torch as shipped: its MMOE, trained by its own ``fit`` with Adam."""

from pathlib import Path
from typing import Any

import numpy as np

from examples.benchmark.contender import POOL, Contender, peer
from examples.benchmark.formats import padded
from examples.benchmark.workload import Rows, Workload


def as_columns(workload: Workload, rows: Rows) -> list[np.ndarray]:
    """Rows as the library's inputs, one float32 array a feature: that is how ``fit`` takes them."""
    columns = [ids[:, None] for ids in rows.ids.values()]
    columns += [padded(values, lengths, 2 * workload.bag_mean) for values, lengths in rows.bags.values()]
    columns += [rows.dense[:, [i]] for i in range(workload.dense)]
    return [column.astype(np.float32) for column in columns]


def make_model(workload: Workload) -> Any:
    """The library's MMOE, compiled.

    Raises:
        NotMeasured: If the library is not installed, or the workload is not MMoE.
    """
    inputs, models = peer("deepctr-torch", workload, "deepctr_torch.inputs", "deepctr_torch.models.multitask")
    dimension, longest = workload.dimension, 2 * workload.bag_mean
    features = [
        *(inputs.SparseFeat(name, rows, dimension) for name, rows in workload.single.items()),
        *(
            inputs.VarLenSparseFeat(inputs.SparseFeat(name, n + 1, dimension), longest)
            for name, n in workload.bagged.items()
        ),
        *(inputs.DenseFeat(f"dense_{i}") for i in range(workload.dense)),
    ]
    model = models.MMOE(
        features,
        num_experts=workload.experts,
        gate_dnn_hidden_units=(),  # one linear layer, as in the other contenders
        task_types=["binary"] * workload.tasks,
        task_names=workload.labels,
    )
    model.compile("adam", loss=["binary_crossentropy"] * workload.tasks)
    return model


class DeepCTRTorch(Contender):
    """Dense gradients, Adam and its default L2 penalty over every row of every table."""

    def __init__(self, workload: Workload, data: Path | None = None) -> None:
        super().__init__(workload, data)
        self.model = make_model(workload)
        batches = self.rows()
        columns = [as_columns(workload, rows) for rows in batches]
        self.columns = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
        self.labels = np.concatenate([rows.labels for rows in batches])

    def train(self, batches: int) -> float:
        """One call of its ``fit`` for every eight batches."""
        loss = float("nan")
        while batches > 0:
            rows = min(batches, POOL) * self.workload.batch_size
            history = self.model.fit(
                [column[:rows] for column in self.columns],
                self.labels[:rows],
                batch_size=self.workload.batch_size,
                verbose=0,
                shuffle=False,
            )
            loss = float(history.history["loss"][-1])
            batches -= POOL
        return loss

    @property
    def state_bytes(self) -> int:
        """Adam keeps two moments."""
        return 2 * self.workload.table_bytes
