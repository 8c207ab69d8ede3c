"""Shared experts, mixed for each task by its own gate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.mlp import PLAIN, LayerOptions, mlp
from torchrec_mtl.trunks.levels import check_layers
from torchrec_mtl.trunks.task_parts import Rows, TaskPart
from torchrec_mtl.trunks.trunk import Trunk


class MMoE(Trunk):
    r"""Multi-gate mixture of experts.

    .. math:: h_t = \sum_{e=1}^{E} \mathrm{softmax}(W_t x + b_t)_e \, f_e(x)

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        num_experts: Number of experts, ``E``.
        layers: Widths of each expert's layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no layer or no expert, or a size is not positive.

    Source: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018.

    Example::

        trunk = MMoE(in_features=8, num_tasks=2, num_experts=4, layers=[32, 16])
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        num_experts: int = 4,
        layers: Sequence[int] = (256, 128),
        options: LayerOptions = PLAIN,
    ) -> None:
        check_layers("MMoE", layers)
        if num_experts < 1:
            raise ValueError(f"MMoE: num_experts must be at least 1, but found {num_experts}.")
        super().__init__(in_features, num_tasks, layers[-1])
        self.experts = nn.ModuleList(mlp(in_features, layers, options) for _ in range(num_experts))
        self.gates = nn.Linear(in_features, num_tasks * num_experts)  # all tasks' gates in one product

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        return {"gates": Rows({0: self.gates.out_features // self.num_tasks})}

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        experts = torch.stack([expert(features) for expert in self.experts], dim=1)  # [B, E, H]
        gates = self.gates(features).unflatten(1, (self.num_tasks, -1))  # [B, T, E]
        return gates.softmax(dim=-1) @ experts  # [B, T, H]
