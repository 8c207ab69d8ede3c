"""The contract of every architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Trunk(nn.Module, ABC):
    """Maps one shared feature vector ``[B, D]`` to one vector per task ``[B, T, H]``.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers that read the trunk, ``T``.
        out_features: Width of each task's vector, ``H``.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(self, in_features: int, num_tasks: int, out_features: int) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "num_tasks": num_tasks, "out_features": out_features}
        if min(sizes.values()) < 1:
            raise ValueError(f"{type(self).__name__}: every size must be at least 1, but found {sizes}.")
        self.in_features = in_features
        self.num_tasks = num_tasks
        self.out_features = out_features

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""


def mlp(
    in_features: int,
    layers: Sequence[int],
    dropout: float = 0.0,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Linear layers, each with activation and dropout: ``[…, in_features]`` to ``[…, layers[-1]]``.

    TorchRec's own ``MLP`` has no dropout.

    Args:
        in_features: Input width.
        layers: Output width of each layer; none gives the identity.
        dropout: Probability of dropping an activation, in ``[0, 1)``.
        activation: Makes the activation after each layer.

    Raises:
        ValueError: If a width is not positive or the dropout is outside ``[0, 1)``.
    """
    if any(width < 1 for width in layers):
        raise ValueError(f"Layer widths must be at least 1, but found {list(layers)}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), but found {dropout}.")
    modules: list[nn.Module] = []
    for width in layers:
        modules += [nn.Linear(in_features, width), activation()]
        modules += [nn.Dropout(dropout)] if dropout else []
        in_features = width
    return nn.Sequential(*modules)
