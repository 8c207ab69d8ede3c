"""One network for all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchrec_mtl.mlp import PLAIN, LayerOptions, mlp
from torchrec_mtl.trunks.levels import check_layers
from torchrec_mtl.trunks.task_parts import TaskPart
from torchrec_mtl.trunks.trunk import Trunk


class SharedBottom(Trunk):
    """One MLP whose output every task reads: hard parameter sharing.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        layers: Widths of the layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer.

    Shapes:
        features: ``[B, D]``; returns ``[B, 1, H]``, which every task reads.

    Raises:
        ValueError: If there is no layer, or a size is not positive.

    Source: Caruana, Multitask Learning, 1997.

    Example::

        trunk = SharedBottom(in_features=8, num_tasks=2, layers=[32, 16])
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 1, 16])
    """

    def __init__(
        self, in_features: int, num_tasks: int, *, layers: Sequence[int] = (256, 128), options: LayerOptions = PLAIN
    ) -> None:
        check_layers("SharedBottom", layers)
        super().__init__(in_features, num_tasks, layers[-1])
        self.bottom = mlp(in_features, layers, options)

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose."""
        return {}  # all is shared

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, 1, H]``."""
        return self.bottom(features).unsqueeze(1)
