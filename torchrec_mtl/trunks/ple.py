"""Experts of each task beside shared ones, level upon level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.experts import Experts, Gates
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.mlp import PLAIN, LayerOptions
from torchrec_mtl.trunks.levels import check_layers, check_levels, for_each_expert
from torchrec_mtl.trunks.task_parts import Rows, TaskPart, experts_of
from torchrec_mtl.trunks.trunk import Trunk


class Extraction(nn.Module):
    """A level of :class:`PLE`: maps each task's vector and the shared one to the next.

    Args:
        shared: The shared experts, ``s``.
        own: All tasks' experts, ``T * m``; those of task t are ``t * m … (t + 1) * m - 1``. ``None`` for m = 0.
        gates: A gate for each task over its own experts, then the shared ones.
        shared_gate: The gate over all tasks' experts, then the shared ones; ``None`` at the last level.

    Shapes:
        tasks: ``[B, D]``, which all tasks read, or ``[B, T, D]``, one for each; returned as ``[B, T, H]``.
        common: ``[B, D]``; returned as ``[B, H]``, at the last level as it came.
    """

    def __init__(self, shared: Experts, own: Experts | None, gates: Gates, shared_gate: Gates | None) -> None:
        super().__init__()
        self.own = own
        self.shared = shared
        self.gates = gates
        self.shared_gate = shared_gate

    def forward(self, tasks: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the tasks' vectors and the shared one to the next."""
        experts, gates = self.shared(common), self.gates(tasks)  # [B, s, H], [B, T, m + s]
        if self.own is not None:
            own = gates.shape[-1] - experts.shape[1]  # m
            made = self.own(for_each_expert(tasks, own))  # [B, T * m, H]
            gates = torch.cat([at_own(gates[..., :own]), gates[..., own:]], dim=-1)  # [B, T, T * m + s]
            experts = torch.cat([made, experts], dim=1)  # [B, T * m + s, H]
        if self.shared_gate is None:
            return gates @ experts, common
        gates = torch.cat([gates, self.shared_gate(common)], dim=1)  # one product for tasks and shared vector
        mixed = gates @ experts  # [B, T + 1, H]
        return mixed[:, :-1], mixed[:, -1]


def at_own(gates: Tensor) -> Tensor:
    """Spreads gates over a task's own experts over all tasks': ``[B, T, m]`` to ``[B, T, T * m]``, 0 at others'."""
    tasks = gates.shape[1]
    return (gates.unsqueeze(2) * torch.eye(tasks, dtype=gates.dtype, device=gates.device).unsqueeze(-1)).flatten(2)


class PLE(Trunk):
    r"""Progressive layered extraction: a task's gate mixes its own experts and the shared ones, at each level.

    .. math::
        h_t^l &= \mathrm{softmax}(W_t^l h_t^{l-1} + b_t^l)^\top [F_t^l(h_t^{l-1}) \mid F_s^l(h_s^{l-1})] \\
        h_s^l &= \mathrm{softmax}(W_s^l h_s^{l-1} + b_s^l)^\top [F_1^l(h_1^{l-1}) \mid \dots \mid F_T^l(h_T^{l-1}) \mid
            F_s^l(h_s^{l-1})]

    where :math:`h_t^0 = h_s^0 = x`, :math:`F_t` are the m experts of task t and :math:`F_s` the s shared ones. The last
    level has no shared gate: nothing would read it.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        levels: Widths of the layers of each level's experts; the very last is ``H``.
        shared_experts: Number of shared experts at each level, ``s``.
        task_experts: Number of each task's own experts at each level, ``m``; 0 for none.
        options: Normalisation, activation and dropout after each layer.
        gate_dropout: Probability of dropping an expert from a gate while training.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no level, layer or shared expert, a size is not positive, or the gate dropout is outside
            ``[0, 1)``.

    Source: Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
    Recommendations, RecSys 2020. Deliberate differences: gates have a bias (as in ``facebookresearch/AdaTT``), the
    paper's none; all tasks have the same number of experts; dropout of gates is ours.

    Example::

        trunk = PLE(in_features=8, num_tasks=2, levels=[[32], [16]], shared_experts=2, task_experts=1)
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        levels: Sequence[Sequence[int]] = ((256,), (128,)),
        shared_experts: int = 2,
        task_experts: int = 1,
        options: LayerOptions = PLAIN,
        gate_dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_levels(name, levels)
        if shared_experts < 1:
            raise ValueError(f"{name}: shared_experts must be at least 1, but found {shared_experts}.")
        if task_experts < 0:
            raise ValueError(f"{name}: task_experts must be at least 0, but found {task_experts}.")
        super().__init__(in_features, num_tasks, levels[-1][-1])
        self.shared_experts, self.task_experts = shared_experts, task_experts
        own = num_tasks * task_experts
        self.levels = nn.ModuleList()
        for depth, layers in enumerate(levels):
            shared = Experts(shared_experts, in_features, layers, options)
            experts = Experts(own, in_features, layers, options) if own else None
            gates = Gates(num_tasks, in_features, task_experts + shared_experts, gate_dropout)
            read_on = depth + 1 < len(levels)
            shared_gate = Gates(1, in_features, own + shared_experts, gate_dropout) if read_on else None
            self.levels.append(Extraction(shared, experts, gates, shared_gate))
            in_features = layers[-1]

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        own = self.task_experts  # at the shared gate, before the shared experts
        gates = {"levels.*.gates": Rows(), "levels.*.shared_gate": Rows({1: own})}
        return (experts_of("levels.*.own", own) if own else {}) | gates

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        tasks = common = features
        for level in self.levels:
            tasks, common = level(tasks, common)
        return tasks

    def wirings(self) -> dict[str, Wiring]:
        """Which experts are whose and which a task's gate reads, for the inside view."""
        tasks, m = range(self.num_tasks), self.task_experts
        owners: list[int | str] = [*(task for task in tasks for _ in range(m)), *["shared"] * self.shared_experts]
        shared = [n for n, owner in enumerate(owners) if owner == "shared"]
        columns = {"gates": [[*range(task * m, task * m + m), *shared] for task in tasks]}
        wirings = {f"levels.{i}": Wiring(owners, [*tasks, "shared"], columns) for i in range(len(self.levels))}
        last = f"levels.{len(self.levels) - 1}"
        return wirings | {last: Wiring(owners, tasks, columns)}


class CGC(PLE):
    r"""Customized gate control: :class:`PLE` of one level.

    .. math:: h_t = \mathrm{softmax}(W_t x + b_t)^\top [F_t(x) \mid F_s(x)]

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        layers: Widths of each expert's layers; the last is ``H``.
        shared_experts: Number of shared experts, ``s``.
        task_experts: Number of each task's own experts, ``m``; 0 for none, which is MMoE.
        options: Normalisation, activation and dropout after each layer.
        gate_dropout: Probability of dropping an expert from a gate while training.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no layer or shared expert, a size is not positive, or the gate dropout is outside
            ``[0, 1)``.

    Source: as :class:`PLE`.

    Example::

        trunk = CGC(in_features=8, num_tasks=2, layers=[32, 16], shared_experts=2, task_experts=1)
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        layers: Sequence[int] = (256, 128),
        shared_experts: int = 2,
        task_experts: int = 1,
        options: LayerOptions = PLAIN,
        gate_dropout: float = 0.0,
    ) -> None:
        check_layers("CGC", layers)
        super().__init__(
            in_features,
            num_tasks,
            levels=[layers],
            shared_experts=shared_experts,
            task_experts=task_experts,
            options=options,
            gate_dropout=gate_dropout,
        )
