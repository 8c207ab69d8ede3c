"""Embeddings of the labels that one task predicts and others read."""

from __future__ import annotations

import torch
from torch import nn


class Labels(nn.ParameterList):
    """The embeddings of two labels, ``[2, L]``, of each task that others read.

    Args:
        number: Number of tasks.
        width: Width of an embedding, ``L``.
    """

    def __init__(self, number: int, width: int) -> None:
        super().__init__(torch.empty(2, width) for _ in range(number))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws all embeddings anew, of variance ``1/L``."""
        for table in self:
            table.normal_().div_(table.shape[1] ** 0.5)
