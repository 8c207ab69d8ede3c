"""The contract of every rule that makes one loss of many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.meta import real_device


class Balancer(nn.Module, ABC):
    """Maps the trained tasks' losses ``[T]`` to the scalar that is minimised.

    Args:
        weights: The trained tasks' declared weights, ``[T]``, all positive.

    The losses' values are global (means over all ranks' rows, equal on every rank) and their gradients are this rank's
    share. So any differentiable rule, also one that is not linear, gives the gradient of the one-process run once
    gradients are averaged over ranks.

    Raises:
        ValueError: If there is no weight or one is not positive.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        if not weights or not all(weight > 0 for weight in weights):
            raise ValueError(f"{type(self).__name__}: needs a positive weight for each task, but found {weights}.")
        declared = torch.tensor(weights, dtype=torch.float32, device=real_device())
        self.register_buffer("weights", declared, persistent=False)

    @abstractmethod
    def forward(self, losses: Tensor) -> Tensor:
        """Maps ``[T]`` to a scalar."""
