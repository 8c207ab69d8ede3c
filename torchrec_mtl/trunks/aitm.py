"""Towers along a funnel, each told by the one before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.experts import Experts
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.mlp import PLAIN, LayerOptions, mlp
from torchrec_mtl.trunks.fusion import Fusion
from torchrec_mtl.trunks.levels import check_layers
from torchrec_mtl.trunks.sequential import SequentialTrunk
from torchrec_mtl.trunks.task_parts import Listed, Since, TaskPart, experts_of


class AITM(SequentialTrunk):
    r"""Adaptive information transfer multi-task.

    .. math:: z_1 = q_1, \qquad z_t = \mathrm{AIT}(q_t, p_{t-1}), \qquad p_{t-1} = g_t(z_{t-1}), \qquad q_t = f_t(x)

    with an MLP :math:`f_t` a task, one layer :math:`g_t` that says what to pass on, and the attention
    :class:`~torchrec_mtl.trunks.fusion.Fusion` as AIT, whose Q, K and V all tasks share. Gradients of a later task flow
    back through the earlier ones.

    The order is that of the towers: see :class:`~torchrec_mtl.trunks.sequential.SequentialTrunk`. In the paper every
    tower gives the **marginal** probability of its step, and the loss has a term for those that rise along the funnel::

        heads = TaskHeads(
            {"click": Tower(32, hidden=[]), "purchase": Tower(32, hidden=[])},
            links=[Joined("order", of=("click", "purchase"))],
        )
        tasks = [
            BinaryTask("click", "click"),
            BinaryTask("purchase", "purchase"),
            MonotonicityTerm("order", "click", weight=0.6),
        ]

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        layers: Widths of each task's layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer, those that pass on included.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no layer, or a size is not positive; by
            :meth:`~torchrec_mtl.trunks.sequential.SequentialTrunk.check_tasks`, if the tasks contradict the order.

    Source: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions, KDD 2021, and the
    authors' code (xidongbo/AITM), whose PyTorch port scores by Q and V where the paper, the first code and this use Q
    and K. Its tower ends in one linear layer on z_t: ``Tower(H, hidden=[])``; batch norm is an option here.

    Example::

        trunk = AITM(in_features=8, num_tasks=2, layers=[64, 32])
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 32])
    """

    def __init__(
        self, in_features: int, num_tasks: int, *, layers: Sequence[int] = (256, 128), options: LayerOptions = PLAIN
    ) -> None:
        check_layers("AITM", layers)
        super().__init__(in_features, num_tasks, layers[-1])
        self.own = Experts(num_tasks, in_features, layers, options)
        self.transfers = nn.ModuleList(mlp(layers[-1], layers[-1:], options) for _ in range(num_tasks - 1))
        self.fusion = Fusion(layers[-1], sources=2, bias=False) if num_tasks > 1 else None

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        return experts_of("own") | {"transfers": Listed(first=1), "fusion": Since(1)}

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        own = self.own(features)  # [B, T, H]
        if self.fusion is None:
            return own
        first, *others = own.unbind(1)  # T of [B, H]
        found = [first]
        for vector, transfer in zip(others, self.transfers, strict=True):
            found.append(self.fusion([vector, transfer(found[-1])]))
        return torch.stack(found, dim=1)  # [B, T, H]

    def wirings(self) -> dict[str, Wiring]:
        """Whose the networks are, and what the attention weighs, for the inside view."""
        told = Wiring(experts=["own", "told"], readers=["all but the first"])
        return {"": Wiring(experts=range(self.num_tasks)), "fusion": told}
