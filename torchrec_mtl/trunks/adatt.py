"""Experts of each task, which a task takes from all tasks, its own once more beside the gate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.experts import Experts, Gates
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.mlp import PLAIN, LayerOptions
from torchrec_mtl.trunks.levels import check_levels, for_each_expert
from torchrec_mtl.trunks.task_parts import Rows, TaskPart, experts_of
from torchrec_mtl.trunks.trunk import Trunk


class Fusion(nn.Module):
    r"""A level of :class:`AdaTT`: every task's experts, the gates over all of them, and the residual of a task's own.

    Args:
        experts: All tasks' experts, ``T * m``; those of task t are ``t * m … (t + 1) * m - 1``.
        gates: A gate for each task over all experts.

    Shapes:
        x: ``[B, D]``, which all tasks read, or ``[B, T, D]``, one for each. Returns ``[B, T, H]``.
    """

    def __init__(self, experts: Experts, gates: Gates, num_tasks: int, task_experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.gates = gates
        self.num_tasks = num_tasks
        self.task_experts = task_experts
        own = nn.Parameter(torch.empty(num_tasks, task_experts))
        self.own = own if task_experts > 1 else None  # of one expert the weight is 1
        self._draw(own)  # in either case, so that what is drawn next under a seed does not depend on it

    def reset_parameters(self) -> None:
        """Draws the residual's weights anew, if there are any."""
        if self.own is not None:
            self._draw(self.own)

    def _draw(self, own: nn.Parameter) -> None:
        bound = math.sqrt(1 / self.task_experts)
        nn.init.uniform_(own, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, D]`` or ``[B, T, D]`` to ``[B, T, H]``."""
        experts = self.experts(for_each_expert(x, self.task_experts))  # [B, T * m, H]
        gates = self.gates(x)  # [B, T, T * m]
        return (gates + self._residual(gates)) @ experts  # [B, T, H]

    def _residual(self, like: Tensor) -> Tensor:
        """Each task's weights at its own experts, ``[T, T * m]``."""
        if self.own is None:
            return torch.eye(self.num_tasks, dtype=like.dtype, device=like.device)
        return torch.block_diag(*self.own)

    def wirings(self) -> dict[str, Wiring]:
        """Whose the experts are, and the residual beside the gates, for the inside view."""
        tasks = range(self.num_tasks)
        experts = [task for task in tasks for _ in range(self.task_experts)]
        return {"": Wiring(experts=experts, readers=tasks, fixed=self._residual(self.gates.scores.weight))}


class AdaTT(Trunk):
    r"""Adaptive task-to-task fusion with task-specific experts alone (AdaTT-sp).

    Each task has m experts a level and a gate over all ``T * m``. Its own enter once more, as a residual:

    .. math::
        h_t^l = \sum_{e=1}^{Tm} \mathrm{softmax}(W_t^l h_t^{l-1} + b_t^l)_e \, f_e^l(h_{t(e)}^{l-1})
            + \sum_{i=1}^{m} v_{t,i}^l \, f_{t,i}^l(h_t^{l-1})

    where :math:`h_t^0 = x` and expert e belongs to task :math:`t(e)`. With one expert a task, the residual is it alone,
    :math:`v = 1`; with more, v is learned, free of a softmax, from :math:`U(\pm\sqrt{1/m})`.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        levels: Widths of the layers of each level's experts; the very last is ``H``.
        task_experts: Number of experts of each task at each level, ``m``.
        options: Normalisation, activation and dropout after each layer.
        gate_dropout: Probability of dropping an expert from a gate while training; the residual stays.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no level, layer or expert, a size is not positive, or the gate dropout is outside
            ``[0, 1)``.

    Source: Li et al., AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations, KDD 2023,
    and the authors' code, ``facebookresearch/AdaTT``. Deliberate differences: the residual's weights are added to the
    gates before the one product with the experts, where the code of AdaTT-sp adds two products (the same sum); every
    task reads the same features, where the code takes a vector for each; dropout of gates is ours.

    Example::

        trunk = AdaTT(in_features=8, num_tasks=2, levels=[[32], [16]], task_experts=2)
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        levels: Sequence[Sequence[int]] = ((256,), (128,)),
        task_experts: int = 1,
        options: LayerOptions = PLAIN,
        gate_dropout: float = 0.0,
    ) -> None:
        check_levels("AdaTT", levels)
        if task_experts < 1:
            raise ValueError(f"AdaTT: task_experts must be at least 1, but found {task_experts}.")
        super().__init__(in_features, num_tasks, levels[-1][-1])
        self.task_experts = task_experts
        number, widths = num_tasks * task_experts, [in_features, *(layers[-1] for layers in levels)]
        self.levels = nn.Sequential()
        for width, layers in zip(widths, levels, strict=False):  # the last width is H
            experts, gates = Experts(number, width, layers, options), Gates(num_tasks, width, number, gate_dropout)
            self.levels.append(Fusion(experts, gates, num_tasks, task_experts))

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        gates = Rows({0: 1, 1: self.task_experts})  # each task's over all tasks' experts
        return experts_of("levels.*.experts", self.task_experts) | {"levels.*.gates": gates, "levels.*.own": Rows()}

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        return self.levels(features)
