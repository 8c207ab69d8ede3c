"""Plain layers that trunks, heads and attention blocks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn


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
