"""Trunks along a funnel, written plainly. Each maps ``[B, D]`` to T of ``[B, H]``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from examples.benchmark.plain_network import layers
from examples.benchmark.plain_trunks import EXPERT, TOWER

TASK, RELATION = 64, 32  # widths of DBMTL's layers for a task and for what tasks tell each other
LABEL = 16  # of HTLNet's label embeddings


class PlainAttention(nn.Module):
    """Mixes vectors by the attention that each pays to itself: ``J of [B, d] -> [B, d]``; one alone has no scores."""

    def __init__(self, width: int, sources: int, bias: bool) -> None:
        super().__init__()
        self.value = nn.Linear(width, width, bias)
        if sources > 1:
            self.query, self.key = nn.Linear(width, width, bias), nn.Linear(width, width, bias)

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Maps J of ``[B, d]`` to ``[B, d]``."""
        if len(vectors) == 1:
            return self.value(vectors[0])
        scores = [(self.query(u) * self.key(u)).sum(1) / math.sqrt(u.shape[1]) for u in vectors]
        weights = torch.stack(scores, dim=1).softmax(1).unbind(1)  # J of [B]
        return torch.stack([w.unsqueeze(1) * self.value(u) for w, u in zip(weights, vectors, strict=True)]).sum(0)


class PlainAITM(nn.Module):
    """A network a task; each task attends to its own vector and to what the task before passes on."""

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.own = nn.ModuleList(layers(in_features, *EXPERT) for _ in range(tasks))
        self.transfers = nn.ModuleList(layers(EXPERT[-1], EXPERT[-1]) for _ in range(tasks - 1))
        self.attention = PlainAttention(EXPERT[-1], sources=2, bias=False)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        found = [self.own[0](features)]
        for own, transfer in zip(self.own[1:], self.transfers, strict=True):
            found.append(self.attention([own(features), transfer(found[-1])]))
        return found


class PlainDBMTL(nn.Module):
    """One network, a layer a task, and a layer that reads the task's own vector and those of all before it."""

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.bottom = layers(in_features, *EXPERT)
        self.own = nn.ModuleList(layers(EXPERT[-1], TASK) for _ in range(tasks))
        self.relations = nn.ModuleList(layers(TASK + t * RELATION, RELATION) for t in range(tasks))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        shared = self.bottom(features)
        found: list[Tensor] = []
        for own, relation in zip(self.own, self.relations, strict=True):
            found.append(relation(torch.cat([own(shared), *found], dim=1)))
        return found


class PlainHTLNet(nn.Module):
    """Networks told the vectors and predicted labels of all before them; with its towers: ``[B, D] -> T of [B]``."""

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        told = EXPERT[-1] + LABEL
        self.own = nn.ModuleList(layers(in_features + (told if t else 0), *EXPERT) for t in range(tasks))
        self.labels = nn.ParameterList(torch.randn(2, LABEL) / LABEL**0.5 for _ in range(tasks - 1))
        self.vectors = nn.ModuleList(PlainAttention(EXPERT[-1], t, bias=True) for t in range(1, tasks))
        self.embeddings = nn.ModuleList(PlainAttention(LABEL, t, bias=True) for t in range(1, tasks))
        self.towers = nn.ModuleList(
            nn.Sequential(*layers(EXPERT[-1], TOWER), nn.Linear(TOWER, 1), nn.Flatten(0)) for _ in range(tasks)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B]``."""
        outputs: list[Tensor] = []
        vectors: list[Tensor] = []
        labels: list[Tensor] = []
        for t, (own, tower) in enumerate(zip(self.own, self.towers, strict=True)):
            told = [self.vectors[t - 1](vectors), self.embeddings[t - 1](labels)] if t else []
            vector = own(torch.cat([*told, features], dim=1))
            outputs.append(tower(vector))
            if t < len(self.labels):
                vectors.append(vector.detach())
                labels.append(self.drawn(outputs[-1].detach()) @ self.labels[t])
        return outputs

    def drawn(self, logit: Tensor) -> Tensor:
        """A label drawn by Gumbel-softmax at temperature 10, ``[B] -> [B, 2]``; in eval mode without noise."""
        if self.training:
            u = torch.rand_like(logit)
            logit = logit + u.log() - (-u).log1p()
        weight = (logit / 10).sigmoid()
        return torch.stack([weight, 1 - weight], dim=1)
