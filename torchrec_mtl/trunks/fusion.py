"""The attention by which sequential trunks weigh what they are told."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchrec_mtl.inside.shown import Softmax


class Fusion(nn.Module):
    r"""Mixes J vectors by the attention that each pays to itself.

    .. math:: z = \sum_{j=1}^{J} a_j V u_j, \qquad
        a = \mathrm{softmax}_j\!\left(\frac{\langle Q u_j, K u_j \rangle}{\sqrt d}\right)

    Args:
        width: Width of the vectors, ``d``.
        sources: Number of vectors, ``J``. Of a single one the weight is 1, so there are no Q and K to learn.
        bias: Whether Q, K and V have a bias.

    Shapes:
        vectors: ``J`` of ``[B, d]``; returns ``[B, d]``.

    Source: the module "AIT" of Xi et al., KDD 2021; HTLNet's information fusion unit (Tang et al., RecSys 2024) is the
    same with Q, K, V called h2, h3, h1.
    """

    def __init__(self, width: int, sources: int, bias: bool) -> None:
        super().__init__()
        self.value = nn.Linear(width, width, bias)
        self.query = nn.Linear(width, width, bias) if sources > 1 else None
        self.key = nn.Linear(width, width, bias) if sources > 1 else None
        self.softmax = Softmax()

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Maps ``J`` of ``[B, d]`` to ``[B, d]``."""
        if self.query is None or self.key is None:
            return self.value(vectors[0])
        u = torch.stack(vectors, dim=1)  # [B, J, d]
        scores = (self.query(u) * self.key(u)).sum(-1) / math.sqrt(u.shape[-1])  # [B, J]
        return (self.softmax(scores).unsqueeze(-1) * self.value(u)).sum(1)  # [B, d]
