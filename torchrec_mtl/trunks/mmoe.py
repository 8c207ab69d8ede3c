"""Shared experts, mixed for each task by its own gate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchrec_mtl.experts import Experts, Gates
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.mlp import PLAIN, LayerOptions
from torchrec_mtl.trunks.levels import check_layers, check_levels
from torchrec_mtl.trunks.task_parts import Rows, TaskPart
from torchrec_mtl.trunks.trunk import Trunk


class Mixture(nn.Module):
    """Experts and the gates that mix them.

    Args:
        experts: The experts, ``E``.
        gates: Gates over them, ``G``.

    Shapes:
        x: ``[B, D]``, which all experts read, or ``[B, E, D]``, one for each.
        features: ``[B, F]``, which the gates read. Returns ``[B, G, H]``.
    """

    def __init__(self, experts: Experts, gates: Gates) -> None:
        super().__init__()
        self.experts = experts
        self.gates = gates

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` or ``[B, E, D]`` to ``[B, G, H]``."""
        return self.gates(features) @ self.experts(x)  # [B, G, E] @ [B, E, H]


class MultiLevelMMoE(Trunk):
    r"""Multi-gate mixtures of experts, level upon level.

    .. math::
        h_t &= \sum_{e=1}^{E} \mathrm{softmax}(W^L_t x + b^L_t)_e \, f^L_e(x^L_e) \\
        x^{l+1}_i &= \sum_{e=1}^{E} \mathrm{softmax}(W^l_i x + b^l_i)_e \, f^l_e(x^l_e), \qquad x^1_e = x

    Below the last level each gate mixes what one expert of the next level reads; at the last, what a task reads. All
    gates read the features themselves.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        levels: Widths of the layers of each level's experts; the very last is ``H``.
        num_experts: Number of experts at each level, ``E``.
        options: Normalisation, activation and dropout after each layer.
        gate_dropout: Probability of dropping an expert from a gate while training; the weights of the rest are
            normalised again. Keeps gates from polarising.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no level, layer or expert, a size is not positive, or the gate dropout is outside
            ``[0, 1)``.

    Source: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018;
    the levels as in ``MLMMoE`` of ``facebookresearch/AdaTT``, where gates may be deeper than one layer.

    Example::

        trunk = MultiLevelMMoE(in_features=8, num_tasks=2, levels=[[32], [16]], num_experts=4)
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        levels: Sequence[Sequence[int]] = ((256,), (128,)),
        num_experts: int = 4,
        options: LayerOptions = PLAIN,
        gate_dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_levels(name, levels)
        if num_experts < 1:
            raise ValueError(f"{name}: num_experts must be at least 1, but found {num_experts}.")
        super().__init__(in_features, num_tasks, levels[-1][-1])
        self.num_experts = num_experts
        self.levels = nn.ModuleList()
        width = in_features
        for depth, layers in enumerate(levels, start=1):
            experts = Experts(num_experts, width, layers, options)
            number = num_experts if depth < len(levels) else num_tasks
            self.levels.append(Mixture(experts, Gates(number, in_features, num_experts, gate_dropout)))
            width = layers[-1]

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose: the last level's gates."""
        return {f"levels.{len(self.levels) - 1}.gates": Rows()}

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        x = features
        for level in self.levels:
            x = level(x, features)
        return x

    def wirings(self) -> dict[str, Wiring]:
        """Whom the gates of each level serve, for the inside view."""
        below = len(self.levels) - 1
        tasks = {f"levels.{below}": Wiring(readers=range(self.num_tasks))}
        return tasks | {
            f"levels.{i}": Wiring(readers=[f"expert {n} above" for n in range(self.num_experts)]) for i in range(below)
        }


class MMoE(MultiLevelMMoE):
    r"""Multi-gate mixture of experts: :class:`MultiLevelMMoE` of one level.

    .. math:: h_t = \sum_{e=1}^{E} \mathrm{softmax}(W_t x + b_t)_e \, f_e(x)

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        num_experts: Number of experts, ``E``.
        layers: Widths of each expert's layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer.
        gate_dropout: Probability of dropping an expert from a gate while training; the weights of the rest are
            normalised again. Keeps gates from polarising.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no layer or no expert, a size is not positive or the gate dropout outside ``[0, 1)``.

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
        gate_dropout: float = 0.0,
    ) -> None:
        check_layers("MMoE", layers)
        super().__init__(
            in_features,
            num_tasks,
            levels=[layers],
            num_experts=num_experts,
            options=options,
            gate_dropout=gate_dropout,
        )
