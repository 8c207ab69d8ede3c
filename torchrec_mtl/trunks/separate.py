"""A network of its own for each task: no layer is shared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchrec_mtl.experts import Experts
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.mlp import PLAIN, LayerOptions
from torchrec_mtl.trunks.levels import check_layers
from torchrec_mtl.trunks.task_parts import TaskPart, experts_of
from torchrec_mtl.trunks.trunk import Trunk


class Separate(Trunk):
    r"""One MLP a task: the opposite of :class:`~torchrec_mtl.trunks.shared_bottom.SharedBottom`.

    .. math:: h_t = f_t([x_{1..C} \mid x^{(t)}])

    where the first C features are common and the others are cut into T slices of equal width, :math:`x^{(t)}` for task
    t. By default all are common: tasks share the embeddings and nothing else. With C = F, the number of dense features,
    and a table of each feature for each task, in the order of the tasks, tasks share nothing at all.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        layers: Widths of each task's layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer.
        common: Number of leading features that every task reads, ``C``; ``None`` for all.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no layer, a size is not positive, or what is not common cannot be cut into T slices.

    Example::

        trunk = Separate(in_features=10, num_tasks=2, layers=[32, 16], common=4)
        trunk(torch.randn(4, 10)).shape  # torch.Size([4, 2, 16]); task 0 reads features 0-6, task 1 0-3 and 7-9
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        layers: Sequence[int] = (256, 128),
        options: LayerOptions = PLAIN,
        common: int | None = None,
    ) -> None:
        check_layers("Separate", layers)
        super().__init__(in_features, num_tasks, layers[-1])
        self.common = in_features if common is None else common
        own = in_features - self.common
        if not 0 <= self.common <= in_features or own % num_tasks:
            raise ValueError(
                f"Separate: common must leave {num_tasks} slices of equal width of the {in_features} features, "
                f"but found common={common}."
            )
        self.own = own // num_tasks
        self.networks = Experts(num_tasks, self.common + self.own, layers, options)

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        return experts_of("networks")

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        if not self.own:
            return self.networks(features)
        common = features[:, : self.common].unsqueeze(1).expand(-1, self.num_tasks, -1)  # [B, T, C]
        own = features[:, self.common :].unflatten(1, (self.num_tasks, self.own))
        return self.networks(torch.cat([common, own], dim=2))

    def wirings(self) -> dict[str, Wiring]:
        """Whose the networks are, for the inside view."""
        return {"": Wiring(experts=range(self.num_tasks))}
