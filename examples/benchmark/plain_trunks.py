"""Trunks with their towers, written plainly: loops over ``nn.Sequential`` experts, gates and towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.benchmark.plain_network import layers

EXPERT, TOWER = (256, 128), 64  # widths of an expert's (or a network's) layers, and of a tower's


def towers(tasks: int) -> nn.ModuleList:
    """A tower a task: ``[B, 128] -> [B, 1]``."""
    return nn.ModuleList(nn.Sequential(*layers(EXPERT[-1], TOWER), nn.Linear(TOWER, 1)) for _ in range(tasks))


class PlainMMoE(nn.Module):
    """Experts, a gate and a tower a task: ``[B, D] -> T of [B, 1]``."""

    def __init__(self, in_features: int, tasks: int, experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(layers(in_features, *EXPERT) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(in_features, experts) for _ in range(tasks))
        self.towers = towers(tasks)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, 1]``."""
        experts = torch.stack([expert(features) for expert in self.experts], dim=1)  # [B, E, H]
        outputs = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = gate(features).softmax(dim=1)  # [B, E]
            outputs.append(tower(self.mix(weights, experts)))
        return outputs

    def mix(self, weights: Tensor, experts: Tensor) -> Tensor:
        """The weighted sum of ``[B, E, H]``: a product for each row, the fastest of the plain ways."""
        return torch.einsum("be,beh->bh", weights, experts)


class PlainMMoEBySums(PlainMMoE):
    """The same with the weighted sum as it is often written."""

    def mix(self, weights: Tensor, experts: Tensor) -> Tensor:
        """The weighted sum of ``[B, E, H]``, by numbers."""
        return (weights.unsqueeze(2) * experts).sum(1)


class PlainSharedBottom(nn.Module):
    """One network and a tower a task: ``[B, D] -> T of [B, 1]``."""

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.bottom = layers(in_features, *EXPERT)
        self.towers = towers(tasks)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, 1]``."""
        shared = self.bottom(features)
        return [tower(shared) for tower in self.towers]


class PlainSeparate(nn.Module):
    """A network and a tower a task: ``[B, D] -> T of [B, 1]``."""

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(layers(in_features, *EXPERT) for _ in range(tasks))
        self.towers = towers(tasks)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, 1]``."""
        return [tower(network(features)) for network, tower in zip(self.networks, self.towers, strict=True)]
