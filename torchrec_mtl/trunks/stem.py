"""Tables and experts of each task beside shared ones: all are read by every task, each is trained by its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.experts import Experts, Gates
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.layout import Layout, runs, take
from torchrec_mtl.mlp import PLAIN, LayerOptions
from torchrec_mtl.trunks.levels import check_levels, for_each_expert
from torchrec_mtl.trunks.task_parts import Rows, TaskPart, experts_of
from torchrec_mtl.trunks.trunk import Trunk


class StemLevel(nn.Module):
    """A level of :class:`STEM`: all-forward, task-specific-backward.

    Args:
        shared: The shared experts, ``s``.
        own: All tasks' experts, ``T * m``; those of task t are ``t * m … (t + 1) * m - 1``.
        gates: A gate for each task over all tasks' experts, then the shared ones.
        shared_gate: A gate over the same; ``None`` at the last level.

    Shapes:
        tasks: ``[B, D]``, which all tasks read, or ``[B, T, D]``, one for each; returned as ``[B, T, H]``.
        common: ``[B, C]``; returned as ``[B, H]``, at the last level as it came.
        told: ``[B, G]`` or ``[B, T, G]``, what the tasks' gates read.
    """

    def __init__(self, shared: Experts, own: Experts, gates: Gates, shared_gate: Gates | None) -> None:
        super().__init__()
        self.own = own
        self.shared = shared
        self.gates = gates
        self.shared_gate = shared_gate

    def forward(self, tasks: Tensor, common: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the tasks' vectors and the shared one to the next."""
        gates = self.gates(told)  # [B, T, T * m + s]
        number = self.own.number // gates.shape[1]  # m
        made = self.own(for_each_expert(tasks, number))  # [B, T * m, H]
        still = torch.cat([made.detach(), self.shared(common)], dim=1)  # [B, T * m + s, H]
        spread = gates[..., : self.own.number].unflatten(2, (-1, number))  # [B, T, T, m]
        own = spread.diagonal(dim1=1, dim2=2).transpose(1, 2)  # [B, T, m]: what a task's gate says of its own experts
        others = spread * ~torch.eye(gates.shape[1], dtype=torch.bool, device=gates.device).unsqueeze(-1)
        others = torch.cat([others.flatten(2), gates[..., self.own.number :]], dim=2)  # [B, T, T * m + s]
        mixed = others @ still + (own.unsqueeze(2) @ made.unflatten(1, (-1, number))).squeeze(2)  # [B, T, H]
        if self.shared_gate is None:
            return mixed, common
        return mixed, (self.shared_gate(common) @ still).squeeze(1)


class STEM(Trunk):
    r"""Shared and task-specific embeddings, mixed by gates that read all and train their own.

    .. math::
        h_t^l &= \mathrm{softmax}(W_t^l [z_s \mid z_t] + b_t^l)^\top
            [\mathrm{sg}(F_1(z_1)) \mid \dots \mid F_t(z_t) \mid \dots \mid \mathrm{sg}(F_T(z_T)) \mid F_s(z_s)] \\
        h_s^l &= \mathrm{softmax}(W_s^l z_s + b_s^l)^\top
            [\mathrm{sg}(F_1(z_1)) \mid \dots \mid \mathrm{sg}(F_T(z_T)) \mid F_s(z_s)]

    where :math:`z_t = h_t^{l-1}`, :math:`z_s = h_s^{l-1}`, :math:`F_t` are the m experts of task t, :math:`F_s` the s
    shared ones, and ``sg`` stops the gradient: forward, every task reads all experts; backward, a task's loss changes
    its own tables and experts and the shared ones, and never those of another task. At the first level :math:`z_t` are
    the copies that task t has of features, and the features of which no task has one; :math:`z_s` are all features but
    the copies. The layout says which are which (``features.own_tables`` in a job); without copies all experts read the
    whole vector. The last level has no shared gate.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        levels: Widths of the layers of each level's experts; the very last is ``H``.
        shared_experts: Number of shared experts at each level, ``s``.
        task_experts: Number of each task's own experts at each level, ``m``.
        options: Normalisation, activation and dropout after each layer.
        gate_dropout: Probability of dropping an expert from a gate while training.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no level, layer or expert of a kind, a size is not positive, or the gate dropout is
            outside ``[0, 1)``; by ``arrange``, if the towers' copies differ in width, two towers share one, or
            another layout is known already.

    Source: Su et al., STEM: Unleashing the Power of Embeddings for Multi-task Recommendation, AAAI 2024 (arXiv
    2308.13537), and ``LiangcaiSu/STEM``. Deliberate differences: features without a table (dense ones, sequences) and
    tables that are not copied are read by all experts; a gate is one layer over both vectors side by side, the code's
    an MLP over their sum; an activation follows the experts' last layer, as in our other mixtures; the shared gate
    stops the gradient too, without which, from the second level on, each task would train all others' tables.

    Example::

        trunk = STEM(in_features=14, num_tasks=2, levels=[[32, 16]])
        columns = {"dense": (0, 1), "shop": (2, 3, 4, 5), "shop:ctr": (6, 7, 8, 9), "shop:cvr": (10, 11, 12, 13)}
        trunk.arrange(Layout(columns, own={"ctr": {"shop": "shop:ctr"}, "cvr": {"shop": "shop:cvr"}}))
        trunk(torch.randn(4, 14)).shape  # torch.Size([4, 2, 16])
    """

    keeps_tables_apart = True

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        levels: Sequence[Sequence[int]] = ((256, 128),),
        shared_experts: int = 1,
        task_experts: int = 1,
        options: LayerOptions = PLAIN,
        gate_dropout: float = 0.0,
    ) -> None:
        check_levels("STEM", levels)
        for what, number in (("shared_experts", shared_experts), ("task_experts", task_experts)):
            if number < 1:
                raise ValueError(f"STEM: {what} must be at least 1, but found {number}.")
        super().__init__(in_features, num_tasks, levels[-1][-1])
        self.depths = [list(layers) for layers in levels]
        self.experts = (shared_experts, task_experts)
        self.options = options
        self.gate_dropout = gate_dropout
        self._copies: list[list[slice]] = []  # of each task
        self._shared = self._free = [slice(0, in_features)]  # all but copies; those of which there is no copy
        self._arranged = False
        self.levels = self._levels(in_features, in_features, in_features)

    def _levels(self, task: int, common: int, told: int) -> nn.ModuleList:
        """The levels, the first of which reads vectors of these widths."""
        (shared, own), tasks, options, dropout = self.experts, self.num_tasks, self.options, self.gate_dropout
        total = tasks * own + shared
        levels = nn.ModuleList()
        for depth, layers in enumerate(self.depths, start=1):
            levels.append(
                StemLevel(
                    Experts(shared, common, layers, options),
                    Experts(tasks * own, task, layers, options),
                    Gates(tasks, told, total, dropout),
                    Gates(1, common, total, dropout) if depth < len(self.depths) else None,
                )
            )
            task, common, told = layers[-1], layers[-1], 2 * layers[-1]
        return levels

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        own = self.experts[1]
        gates = {"levels.*.gates": Rows({0: 1, 1: own}), "levels.*.shared_gate": Rows({1: own})}
        return experts_of("levels.*.own", own) | gates

    def arrange(self, layout: Layout) -> None:
        """Finds shared tables and copies, and makes the layers that read them; again, only compares."""
        super().arrange(layout)
        places = self._places(layout)
        before = (self._copies, self._shared, self._free)
        if self._arranged or not layout.own:
            if places != before:
                raise ValueError(
                    "STEM's layers were made for a vector with other own tables, or in other places. Put it into a "
                    "model of the same features and towers, or make a new trunk."
                )
            self._arranged = True
            return
        (self._copies, self._shared, self._free), self._arranged = places, True
        task, common, own = (
            sum(part.stop - part.start for part in parts) for parts in (self._free, self._shared, self._copies[0])
        )
        old = next(self.levels.parameters())
        self.levels = self._levels(task + own, common, common + own).to(old.device, old.dtype).train(self.training)

    def _places(self, layout: Layout) -> tuple[list[list[slice]], list[slice], list[slice]]:
        """Each task's copies, all but copies, and those of which there is no copy."""
        if not layout.own:
            everything = [slice(0, self.in_features)]
            return [], everything, everything
        copies = [
            layout.of(own.values(), f"STEM: own features of tower '{tower}'") for tower, own in layout.own.items()
        ]
        self._check_copies(layout, copies)
        of_tasks = {column for columns in copies for column in columns}
        copied = {name for own in layout.own.values() for name in own if name in layout.columns}
        free = layout.but(of_tasks.union(layout.of(copied, "STEM")))
        return [runs(columns) for columns in copies], runs(layout.but(of_tasks)), runs(free)

    def _check_copies(self, layout: Layout, copies: Sequence[Sequence[int]]) -> None:
        widths = {tower: len(columns) for tower, columns in zip(layout.own, copies, strict=True)}
        if len(widths) != self.num_tasks or len({*widths.values()}) > 1 or not all(widths.values()):
            raise ValueError(
                f"STEM needs features of its own for each of {self.num_tasks} towers, all of one width, but found "
                f"widths {widths}. Declare them together, as features.own_tables does."
            )
        if len({column for columns in copies for column in columns}) < sum(widths.values()):
            raise ValueError(f"STEM: two towers share a table that is declared as their own: {dict(layout.own)}.")

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        tasks = common = told = features
        if self._copies:
            common = take(features, self._shared)  # [B, C]
            own = torch.stack([take(features, slices) for slices in self._copies], dim=1)  # [B, T, width]
            tasks, told = _beside(take(features, self._free), own), _beside(common, own)
        for level in self.levels:
            tasks, common = level(tasks, common, told)
            told = _beside(common, tasks)
        return tasks

    def wirings(self) -> dict[str, Wiring]:
        """Whose each expert is, for the inside view; every gate reads all."""
        tasks, (shared, own) = range(self.num_tasks), self.experts
        owners: list[int | str] = [*(task for task in tasks for _ in range(own)), *["shared"] * shared]
        last = len(self.levels) - 1
        return {
            f"levels.{i}": Wiring(owners, [*tasks] if i == last else [*tasks, "shared"])
            for i in range(len(self.levels))
        }


def _beside(one: Tensor, each: Tensor) -> Tensor:
    """A vector for all tasks before each task's: ``[B, C]`` and ``[B, T, D]`` to ``[B, T, C + D]``."""
    return torch.cat([one.unsqueeze(1).expand(-1, each.shape[1], -1), each], dim=2)
