"""Plain layers that trunks, heads and attention blocks share, and their options, declared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LayerOptions:
    """What follows each linear layer: normalisation, activation, dropout, in this order.

    L2 is the dense optimizer's ``weight_decay``, and so is declared once for all layers.

    Args:
        dropout: Probability of dropping an activation, in ``[0, 1)``.
        activation: Makes the activation.
        norm: Makes the normalisation of a layer from its width, for instance ``torch.nn.LayerNorm`` or
            ``torch.nn.BatchNorm1d`` (whose statistics are each rank's own, and see padding rows); ``None`` for none.

    Raises:
        ValueError: If the dropout is outside ``[0, 1)``.

    Example::

        LayerOptions(dropout=0.1, activation=nn.GELU, norm=nn.LayerNorm)
    """

    dropout: float = 0.0
    activation: Callable[[], nn.Module] = nn.ReLU
    norm: Callable[[int], nn.Module] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), but found {self.dropout}.")

    def after(self, width: int) -> list[nn.Module]:
        """The modules after a linear layer of a width."""
        norm = [] if self.norm is None else [self.norm(width)]
        return [*norm, self.activation(), *([nn.Dropout(self.dropout)] if self.dropout else [])]


PLAIN = LayerOptions()


def check_widths(layers: Sequence[int], whose: str = "") -> None:
    """Refuses widths below 1.

    Args:
        layers: Widths of layers.
        whose: What the text begins with: who takes them, and under which name.

    Raises:
        ValueError: If there is one.
    """
    if any(width < 1 for width in layers):
        raise ValueError(f"{whose}Layer widths must be at least 1, but found {list(layers)}.")


def check_options(options: LayerOptions) -> None:
    """Refuses options of another type, such as the dict that a job file's YAML looks like.

    Raises:
        TypeError: If they are.
    """
    if not isinstance(options, LayerOptions):
        raise TypeError(
            f"options must be LayerOptions(dropout=..., activation=..., norm=...) from torchrec_mtl.trunks, but found "
            f"{options!r}."
        )


def mlp(in_features: int, layers: Sequence[int], options: LayerOptions = PLAIN) -> nn.Sequential:
    """Linear layers, each followed by what the options say: ``[…, in_features]`` to ``[…, layers[-1]]``.

    TorchRec's own ``MLP`` has no dropout.

    Args:
        in_features: Input width.
        layers: Output width of each layer; none gives the identity.
        options: Normalisation, activation and dropout.

    Raises:
        ValueError: If a width is not positive.
        TypeError: If the options are no :class:`LayerOptions`.
    """
    check_widths(layers)
    check_options(options)
    modules: list[nn.Module] = []
    for width in layers:
        modules += [nn.Linear(in_features, width), *options.after(width)]
        in_features = width
    return nn.Sequential(*modules)
