"""A Bayesian network of tasks: each reads what all before it found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.experts import Experts
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.mlp import PLAIN, LayerOptions, check_widths, mlp
from torchrec_mtl.trunks.sequential import SequentialTrunk
from torchrec_mtl.trunks.task_parts import Listed, TaskPart, experts_of


class DBMTL(SequentialTrunk):
    r"""Deep Bayesian multi-target learning: :math:`p(l_1, \dots, l_T \mid x) = \prod_t p(l_t \mid l_{<t}, x)`.

    .. math:: h_t = r_t([f_t(b(x)) \mid h_1 \mid \dots \mid h_{t-1}])

    with a shared bottom b, and for each task an MLP :math:`f_t` of its own and a relation MLP :math:`r_t` over its
    output and those of all tasks before it. Gradients of a later task flow back through the earlier ones.

    The order is that of the towers: see :class:`~torchrec_mtl.trunks.sequential.SequentialTrunk`.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        bottom_layers: Widths of the shared layers; none reads the features as they are.
        task_layers: Widths of each task's own layers.
        relation_layers: Widths of each task's relation layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no task or relation layer, or a size is not positive; by
            :meth:`~torchrec_mtl.trunks.sequential.SequentialTrunk.check_tasks`, if the tasks contradict the order.

    Source: Wang et al., Deep Bayesian Multi-Target Learning for Recommender Systems, arXiv 1902.09154, and EasyRec
    (alibaba/TorchEasyRec). There the links between tasks are chosen, by model selection or by hand; here each task
    reads all before it, which assumes nothing. The output layer of a target is ``Tower(H, hidden=[])``.

    Example::

        trunk = DBMTL(in_features=8, num_tasks=2, bottom_layers=[64], task_layers=[32], relation_layers=[16])
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        bottom_layers: Sequence[int] = (256, 128),
        task_layers: Sequence[int] = (64,),
        relation_layers: Sequence[int] = (32,),
        options: LayerOptions = PLAIN,
    ) -> None:
        if not (task_layers and relation_layers):
            raise ValueError(
                f"DBMTL: task_layers and relation_layers must each name at least one width, but found "
                f"{list(task_layers)} and {list(relation_layers)}."
            )
        named = {"bottom_layers": bottom_layers, "task_layers": task_layers, "relation_layers": relation_layers}
        for name, layers in named.items():
            check_widths(layers, f"DBMTL, {name}: ")
        super().__init__(in_features, num_tasks, relation_layers[-1])
        self.bottom = mlp(in_features, bottom_layers, options)
        self.own = Experts(num_tasks, bottom_layers[-1] if bottom_layers else in_features, task_layers, options)
        self.relations = nn.ModuleList(
            mlp(task_layers[-1] + before * self.out_features, relation_layers, options) for before in range(num_tasks)
        )

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        return experts_of("own") | {"relations": Listed()}

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        own = self.own(self.bottom(features)).unbind(1)  # T of [B, task_layers[-1]]
        found: list[Tensor] = []
        for vector, relation in zip(own, self.relations, strict=True):
            found.append(relation(torch.cat([vector, *found], dim=1)))  # [B, H]
        return torch.stack(found, dim=1)  # [B, T, H]

    def wirings(self) -> dict[str, Wiring]:
        """Whose the networks are, for the inside view."""
        return {"": Wiring(experts=range(self.num_tasks))}
