"""Trunks written plainly: loops over ``nn.Sequential`` experts and gates. Each maps ``[B, D]`` to T of ``[B, H]``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from examples.benchmark.plain_network import layers

EXPERT, TOWER = (256, 128), 64  # widths of an expert's (or a network's) layers, and of a tower's


class Plain(nn.Module):
    """A plain trunk with a tower a task: ``[B, D] -> T of [B]``, as a loss wants it."""

    def __init__(self, trunk: nn.Module, tasks: int, width: int = EXPERT[-1]) -> None:
        super().__init__()
        self.trunk = trunk
        self.towers = nn.ModuleList(
            nn.Sequential(*layers(width, TOWER), nn.Linear(TOWER, 1), nn.Flatten(0)) for _ in range(tasks)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B]``."""
        return [tower(vector) for tower, vector in zip(self.towers, self.trunk(features), strict=True)]


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """The weighted sum ``[B, E], [B, E, H] -> [B, H]``: a product for each row, the fastest of the plain ways."""
    return torch.einsum("be,beh->bh", weights, experts)


def mix_by_sums(weights: Tensor, experts: Tensor) -> Tensor:
    """The same as it is often written."""
    return (weights.unsqueeze(2) * experts).sum(1)


class PlainSharedBottom(nn.Module):
    """One network for all."""

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.bottom = layers(in_features, *EXPERT)
        self.tasks = tasks

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T times the same ``[B, H]``."""
        return [self.bottom(features)] * self.tasks


class PlainSeparate(nn.Module):
    """A network a task."""

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(layers(in_features, *EXPERT) for _ in range(tasks))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        return [network(features) for network in self.networks]


class PlainMMoE(nn.Module):
    """Experts and a gate a task."""

    mix = staticmethod(mix)

    def __init__(self, in_features: int, tasks: int, experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(layers(in_features, *EXPERT) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(in_features, experts) for _ in range(tasks))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        experts = torch.stack([expert(features) for expert in self.experts], dim=1)  # [B, E, H]
        return [self.mix(gate(features).softmax(dim=1), experts) for gate in self.gates]


class PlainMMoEBySums(PlainMMoE):
    """The same, with the weighted sum as it is often written."""

    mix = staticmethod(mix_by_sums)


class PlainOMoE(PlainMMoE):
    """Experts and one gate for all tasks."""

    def __init__(self, in_features: int, tasks: int, experts: int) -> None:
        super().__init__(in_features, 1, experts)
        self.tasks = tasks

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T times the same ``[B, H]``."""
        return super().forward(features) * self.tasks


class PlainMultiLevelMMoE(nn.Module):
    """Levels of experts of one layer each; a gate for each expert of the next level, at the last for each task."""

    levels: Any

    def __init__(self, in_features: int, tasks: int, experts: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for depth, (width, out) in enumerate(pairwise((in_features, *EXPERT)), start=1):
            gates = experts if depth < len(EXPERT) else tasks
            mixed = nn.ModuleList(layers(width, out) for _ in range(experts))
            self.levels.append(
                nn.ModuleList([mixed, nn.ModuleList(nn.Linear(in_features, experts) for _ in range(gates))])
            )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        x = [features] * len(self.levels[0][0])
        for experts, gates in self.levels:
            made = torch.stack([expert(part) for expert, part in zip(experts, x, strict=True)], dim=1)
            x = [mix(gate(features).softmax(dim=1), made) for gate in gates]
        return x


class PlainPLE(nn.Module):
    """Levels of shared experts and of one expert a task; between levels a gate for what is shared."""

    levels: Any

    def __init__(self, in_features: int, tasks: int, shared: int, levels: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for depth, widths in enumerate(levels, start=1):
            level = nn.ModuleDict()
            level["shared"] = nn.ModuleList(layers(in_features, *widths) for _ in range(shared))
            level["own"] = nn.ModuleList(layers(in_features, *widths) for _ in range(tasks))
            level["gates"] = nn.ModuleList(nn.Linear(in_features, 1 + shared) for _ in range(tasks))
            if depth < len(levels):
                level["shared_gate"] = nn.Linear(in_features, tasks + shared)
            self.levels.append(level)
            in_features = widths[-1]

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        tasks, common = [features] * len(self.levels[0]["own"]), features
        for level in self.levels:
            shared = [expert(common) for expert in level["shared"]]
            own = [expert(x) for expert, x in zip(level["own"], tasks, strict=True)]
            tasks = [
                mix(gate(x).softmax(dim=1), torch.stack([made, *shared], dim=1))
                for gate, x, made in zip(level["gates"], tasks, own, strict=True)
            ]
            if "shared_gate" in level:
                common = mix(level["shared_gate"](common).softmax(dim=1), torch.stack([*own, *shared], dim=1))
        return tasks


class PlainAdaTT(nn.Module):
    """Levels of one expert a task and a gate a task over all, with the task's own expert as residual."""

    levels: Any

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for width, out in pairwise((in_features, *EXPERT)):
            experts = nn.ModuleList(layers(width, out) for _ in range(tasks))
            self.levels.append(nn.ModuleList([experts, nn.ModuleList(nn.Linear(width, tasks) for _ in range(tasks))]))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        x = [features] * len(self.levels[0][0])
        for experts, gates in self.levels:
            own = [expert(part) for expert, part in zip(experts, x, strict=True)]
            made = torch.stack(own, dim=1)
            x = [mix(gate(part).softmax(dim=1), made) + mine for gate, part, mine in zip(gates, x, own, strict=True)]
        return x


class PlainCrossStitch(nn.Module):
    """A network a task, with a matrix that mixes them after each layer."""

    levels: Any

    def __init__(self, in_features: int, tasks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(layers(width, out) for _ in range(tasks)) for width, out in pairwise((in_features, *EXPERT))
        )
        self.stitches = nn.ParameterList(torch.full((tasks, tasks), 1 / tasks) for _ in EXPERT)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B, H]``."""
        x = [features] * len(self.levels[0])
        for networks, stitch in zip(self.levels, self.stitches, strict=True):
            made = torch.stack([network(part) for network, part in zip(networks, x, strict=True)], dim=1)
            x = [mix(row.expand(len(made), -1), made) for row in stitch]
        return x
