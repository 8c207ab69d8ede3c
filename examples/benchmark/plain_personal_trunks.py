"""Trunks with parts for each task or row, written plainly. Each maps ``[B, D]`` to T of ``[B, H]``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from examples.benchmark.plain_network import layers
from examples.benchmark.plain_trunks import EXPERT, mix

GATE = 64  # width of the hidden layer of PEPNet's gates


class PlainSTEM(nn.Module):
    """Shared experts and one a task; a task's gate reads all, with others' experts cut from their graph."""

    def __init__(self, in_features: int, tasks: int, shared: int) -> None:
        super().__init__()
        self.shared = nn.ModuleList(layers(in_features, *EXPERT) for _ in range(shared))
        self.own = nn.ModuleList(layers(in_features, *EXPERT) for _ in range(tasks))
        self.gates = nn.ModuleList(nn.Linear(in_features, tasks + shared) for _ in range(tasks))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        shared = [expert(features) for expert in self.shared]
        own = [expert(features) for expert in self.own]
        found = []
        for t, gate in enumerate(self.gates):
            experts = [made if other == t else made.detach() for other, made in enumerate(own)]
            found.append(mix(gate(features).softmax(dim=1), torch.stack([*experts, *shared], dim=1)))
        return found


class PlainPEPNet(nn.Module):
    """A network a task, of which gates scale what goes in and what each layer gives."""

    gates: Any

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.embedding_gate = _gate(in_features, in_features)
        self.layers = nn.ModuleList(
            nn.ModuleList(layers(width, made) for _ in range(tasks)) for width, made in pairwise((in_features, *EXPERT))
        )
        self.gates = nn.ModuleList(_gate(in_features, tasks * width) for width in EXPERT)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        made: Any = 2 * self.embedding_gate(features) * features
        found = [made] * len(self.layers[0])  # type: ignore[arg-type]  # nn.Module hides that it is a list
        for networks, gate in zip(self.layers, self.gates, strict=True):
            factors = (2 * gate(features)).chunk(len(found), dim=1)
            found = [
                factor * network(x)
                for factor, network, x in zip(factors, networks, found, strict=True)  # type: ignore[call-overload]
            ]
        return found


def _gate(in_features: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, GATE), nn.ReLU(), nn.Linear(GATE, out), nn.Sigmoid())
