"""What a task is: a label, the rows it may learn from, a loss and a prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Task(ABC):
    """One thing to predict about an impression.

    The label space is declared once, here. It is the set of rows on which the task is defined:

    ``space = {i : label_i is not NaN and (label_space is None or labels[label_space]_i = 1)}``

    and it drives the mask of the loss, the cross-rank mean (:class:`~torchrec_mtl.objective.MultiTaskLoss`) and the
    mask of every metric. So the conversion rate after a click, ``BinaryTask("cvr", "purchase", label_space="click")``,
    is learnt from and measured on clicks alone.

    Args:
        name: Name of the output that this task reads: a tower's or a link's.
        label: Label column.
        label_space: Binary label column that must be 1 for a row to count, or ``None`` for every labelled row.
        weight: Weight of the task's loss; 0 means measured, not trained.
        sample_weight: Weight column for this task's loss and metrics (for instance the inverse sampling rate), or
            ``None`` for equal weights.

    Raises:
        ValueError: If ``weight`` is negative or not finite, or a name is empty.
    """

    name: str
    label: str
    label_space: str | None = None
    weight: float = 1.0
    sample_weight: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.label:
            raise ValueError(f"A task needs a name and a label column, but found {self!r}.")
        if not (np.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"Task '{self.name}': weight must be a finite number of at least 0 (0: measured, not trained), "
                f"but found {self.weight}."
            )

    @property
    def outputs(self) -> int:
        """Number of values a row that the task reads, ``K``."""
        return 1

    @abstractmethod
    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Loss of each row.

        Shapes:
            output: ``[B]`` or ``[B, K]`` float32. label: ``[B]``, without NaN. Returns ``[B]``.
        """

    @abstractmethod
    def predict(self, output: Tensor) -> Tensor:
        """What is served: a probability or a value for each row, ``[B]`` or ``[B, K]``."""

    @abstractmethod
    def metrics(
        self, prediction: np.ndarray, label: np.ndarray, weight: np.ndarray, group: np.ndarray | None
    ) -> dict[str, float]:
        """Exact metrics over rows that all lie inside the label space.

        Shapes:
            prediction: ``[N]`` or ``[N, K]``. label, weight: ``[N]``. group: ``[N]`` keys (users) or ``None``.
        """

    def invalid(self, label: Tensor) -> Tensor:
        """Mask ``[B]`` of labels that this kind of task cannot take; NaN is missing, not invalid."""
        return label.isinf()

    @property
    def label_domain(self) -> str:
        """What :meth:`invalid` accepts, for error texts."""
        return "finite numbers"

    def space(self, labels: Mapping[str, Tensor]) -> Tensor:
        """Mask ``[B]`` of the rows inside the label space."""
        inside = ~labels[self.label].isnan()
        if self.label_space is not None:
            inside &= labels[self.label_space] == 1  # a NaN compares false: an unknown space is outside
        return inside

    def row_weights(self, weights: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Weight of each row, ``[B]``: the declared column, or ones."""
        return torch.ones_like(like) if self.sample_weight is None else weights[self.sample_weight]

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Label columns that the task reads."""
        return (self.label,) if self.label_space is None else (self.label, self.label_space)
