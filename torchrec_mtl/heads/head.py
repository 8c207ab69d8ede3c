"""The contract of every network between the trunk and one output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn


def read_in_groups(features: Tensor, groups: Collection[Collection[int]]) -> list[Tensor]:
    """What groups of heads read.

    Args:
        features: ``[B, T, H]``, or ``[B, 1, H]`` for all heads.
        groups: The places of each group's heads; each of the T places in one of them.

    Returns:
        ``[B, group, H]`` for each group, or ``[B, 1, H]``.
    """
    if len(groups) == 1 or features.shape[1] == 1:
        return [features] * len(groups)
    vectors = features.unbind(1)
    return [torch.stack([vectors[place] for place in group], dim=1) for group in groups]


class Head(nn.Module, ABC):
    """Maps one task's vector ``[B, H]`` to its output, ``[B]`` or ``[B, K]`` in float32.

    A probability is given as its logit. The constructor's first argument is ``H``, the trunk's ``out_features``.
    """

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, H]`` to ``[B]`` or ``[B, K]``."""

    @classmethod
    def together(cls, heads: Sequence[Head], features: Tensor) -> list[Tensor]:
        """The outputs of several heads of this class, where that is faster than one head after another.

        Args:
            heads: The heads, T of them.
            features: ``[B, T, H]``, or ``[B, 1, H]`` for all of them.
        """
        # unbind has one backward for all heads, where each slice of its own would fill zeros for the rest
        vectors = features.unbind(1) if features.shape[1] > 1 else (features.squeeze(1),) * len(heads)
        return [head(vector) for head, vector in zip(heads, vectors, strict=True)]
