"""What trunks share: checks of layers and levels, and the vectors that experts read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchrec_mtl.mlp import check_widths


def check_layers(trunk: str, layers: Sequence[int]) -> None:
    """Refuses a trunk without a layer, and a layer without a width.

    Args:
        trunk: Name for the error's text.
        layers: Widths of its layers.

    Raises:
        ValueError: If there is none, or a width is not positive.
    """
    if not layers:
        raise ValueError(f"{trunk}: layers must name at least one width, but found none.")
    check_widths(layers, f"{trunk}, layers: ")


def check_levels(trunk: str, levels: Sequence[Sequence[int]]) -> None:
    """Refuses a trunk without a level, and a level without a layer.

    Args:
        trunk: Name for the error's text.
        levels: Widths of the layers of each level's experts.

    Raises:
        ValueError: If there is none, one is no list of widths, or a width is not positive.
    """
    if not levels or any(isinstance(layers, int) or not layers for layers in levels):
        raise ValueError(
            f"{trunk}: levels must name the widths of the experts' layers at each level, such as [[256], [128]], "
            f"but found {list(levels)}."
        )
    for layers in levels:
        check_widths(layers, f"{trunk}, levels: ")


def for_each_expert(x: Tensor, number: int) -> Tensor:
    """Gives each task's vector to every expert of the task: ``[B, T, D]`` to ``[B, T * number, D]``.

    ``[B, D]``, which all experts read, stays as it is.
    """
    return x if x.ndim == 2 else x.unsqueeze(2).expand(-1, -1, number, -1).flatten(1, 2)
