"""Money, minutes and other continuous targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from torchrec_mtl.tasks.metrics import regression_metrics
from torchrec_mtl.tasks.task import Task


@dataclass(frozen=True)
class RegressionTask(Task):
    r"""The mean of a continuous label, by squared error in standardised units.

    .. math:: L = (o - (y - \mu)/s)^2, \qquad \hat y = \mu + s\,o

    with the output :math:`o`. The squared error makes the prediction an unbiased mean, which an expected value (GMV)
    needs; ``shift`` and ``scale`` bring the loss to the size of the other tasks' losses.

    Args:
        name: Name of the output.
        label: Label column.
        label_space: See :class:`~torchrec_mtl.tasks.task.Task`.
        weight: See :class:`~torchrec_mtl.tasks.task.Task`.
        sample_weight: See :class:`~torchrec_mtl.tasks.task.Task`.
        shift: ``μ``, for instance the mean of the training labels.
        scale: ``s > 0``, for instance their standard deviation.

    Raises:
        ValueError: If ``scale`` is not a positive finite number.
    """

    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.isfinite(self.scale) and self.scale > 0 and np.isfinite(self.shift)):
            raise ValueError(
                f"Task '{self.name}': shift must be finite and scale a positive finite number, "
                f"but found shift={self.shift}, scale={self.scale}."
            )

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Squared error of each row in standardised units, ``[B]``."""
        return (output.float() - (label - self.shift) / self.scale).square()

    def predict(self, output: Tensor) -> Tensor:
        """The expected value in the label's own units, ``[B]``."""
        return self.shift + self.scale * output.float()

    def metrics(
        self, prediction: np.ndarray, label: np.ndarray, weight: np.ndarray, group: np.ndarray | None
    ) -> dict[str, float]:
        """MAE, RMSE, NRMSE and calibration: see :func:`~torchrec_mtl.tasks.metrics.regression_metrics`."""
        return regression_metrics(prediction, label, weight)
