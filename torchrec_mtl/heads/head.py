"""The contract of every network between the trunk and one output."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Head(nn.Module, ABC):
    """Maps one task's vector ``[B, H]`` to its output, ``[B]`` or ``[B, K]`` in float32.

    A probability is given as its logit. The constructor's first argument is ``H``, the trunk's ``out_features``.
    """

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, H]`` to ``[B]`` or ``[B, K]``."""
