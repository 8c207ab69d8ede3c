"""Click, conversion and every other yes or no."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchrec_mtl.tasks.metrics import binary_metrics
from torchrec_mtl.tasks.task import Task


@dataclass(frozen=True)
class BinaryTask(Task):
    r"""A probability, from one logit a row: :math:`p = \sigma(a)`.

    .. math:: L = -[z \log\sigma(a) + (1 - z) \log\sigma(-a)]

    The output may come from a tower or from a link such as
    :class:`~torchrec_mtl.heads.probability_product.ProbabilityProduct`: both give a logit.

    Args:
        name: Name of the output.
        label: Label column, 0 or 1.
        label_space: See :class:`~torchrec_mtl.tasks.task.Task`.
        weight: See :class:`~torchrec_mtl.tasks.task.Task`.
        sample_weight: See :class:`~torchrec_mtl.tasks.task.Task`.

    Example::

        BinaryTask("cvr", label="purchase", label_space="click", weight=0.0)  # measured on clicks, not trained
    """

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Binary cross-entropy of each row, in float32; its gradient stays within ``[-1, 1]``."""
        logit = output.float()
        return -(label * logsigmoid(logit) + (1 - label) * logsigmoid(-logit))  # exact in both tails

    def predict(self, output: Tensor) -> Tensor:
        """The probability, ``[B]``."""
        return output.float().sigmoid()

    def metrics(
        self, prediction: np.ndarray, label: np.ndarray, weight: np.ndarray, group: np.ndarray | None
    ) -> dict[str, float]:
        """AUC, GAUC, NE, log loss, calibration and ECE: see :func:`~torchrec_mtl.tasks.metrics.binary_metrics`."""
        return binary_metrics(prediction, label, weight, group)

    def invalid(self, label: Tensor) -> Tensor:
        """Mask ``[B]`` of labels other than 0, 1 and NaN."""
        return (label != 0) & (label != 1) & ~label.isnan()

    @property
    def label_domain(self) -> str:
        """0 or 1."""
        return "0 or 1 (or null for a missing label)"
