"""Shared experts, mixed by one gate for all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchrec_mtl.experts import Experts, Gates
from torchrec_mtl.mlp import PLAIN, LayerOptions
from torchrec_mtl.trunks.levels import check_layers
from torchrec_mtl.trunks.task_parts import TaskPart
from torchrec_mtl.trunks.trunk import Trunk


class OMoE(Trunk):
    r"""One-gate mixture of experts: what :class:`~torchrec_mtl.trunks.mmoe.MMoE` is when its tasks share their gate.

    .. math:: h_t = \sum_{e=1}^{E} \mathrm{softmax}(W x + b)_e \, f_e(x)

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        num_experts: Number of experts, ``E``.
        layers: Widths of each expert's layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer.
        gate_dropout: Probability of dropping an expert from the gate while training.

    Shapes:
        features: ``[B, D]``; returns ``[B, 1, H]``, which every task reads.

    Raises:
        ValueError: If there is no layer or no expert, a size is not positive, or the gate dropout is outside
            ``[0, 1)``.

    Source: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018,
    section 4.1 and its baseline OMoE. Its gate has no bias, ours has one.

    Example::

        trunk = OMoE(in_features=8, num_tasks=2, num_experts=4, layers=[32, 16])
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 1, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        num_experts: int = 4,
        layers: Sequence[int] = (256, 128),
        options: LayerOptions = PLAIN,
        gate_dropout: float = 0.0,
    ) -> None:
        check_layers("OMoE", layers)
        if num_experts < 1:
            raise ValueError(f"OMoE: num_experts must be at least 1, but found {num_experts}.")
        super().__init__(in_features, num_tasks, layers[-1])
        self.experts = Experts(num_experts, in_features, layers, options)
        self.gates = Gates(1, in_features, num_experts, gate_dropout)

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        return {}  # all is shared

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, 1, H]``."""
        return self.gates(features) @ self.experts(features)  # [B, 1, E] @ [B, E, H]
