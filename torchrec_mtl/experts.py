"""Many networks of one shape, and the gates that mix them: what every mixture of experts is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from torchrec_mtl.inside.shown import ShowsVectors, ShowsWeights
from torchrec_mtl.mlp import PLAIN, LayerOptions, check_widths


class EachLinear(nn.Module):
    r"""N linear layers of one shape: :math:`y_n = W_n x_n + b_n`, or :math:`W_n x + b_n` of one input for all.

    Each starts as ``torch.nn.Linear`` does. Weights are held as one ``[N, H, D]``, biases as ``[N, H]``.

    Args:
        number: Number of layers, ``N``.
        in_features: Input width, ``D``.
        out_features: Output width, ``H``.

    Shapes:
        x: ``[B, D]``, which every layer reads, or ``[B, N, D]``, one for each. Returns ``[B, N, H]``.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(self, number: int, in_features: int, out_features: int) -> None:
        super().__init__()
        if min(number, in_features, out_features) < 1:
            raise ValueError(
                f"EachLinear: every size must be at least 1, but found number={number}, in_features={in_features} and "
                f"out_features={out_features}."
            )
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(number, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(number, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, D]`` or ``[B, N, D]`` to ``[B, N, H]``."""
        if x.ndim == 2:
            return linear(x, self.weight.flatten(0, 1), self.bias.flatten()).unflatten(1, self.bias.shape)
        return torch.stack([linear(x[:, n], self.weight[n], self.bias[n]) for n in range(len(self.bias))], dim=1)


class Experts(ShowsVectors):
    """N MLPs of one shape, each with parameters of its own.

    Args:
        number: Number of experts, ``N``.
        in_features: Input width, ``D``.
        layers: Widths of each expert's layers; the last is ``H``.
        options: Normalisation, activation and dropout after each layer.

    Shapes:
        x: ``[B, D]``, which every expert reads, or ``[B, N, D]``, one for each. Returns ``[B, N, H]``.

    Raises:
        ValueError: If there is no layer or no expert, or a size is not positive.
    """

    def __init__(self, number: int, in_features: int, layers: Sequence[int], options: LayerOptions = PLAIN) -> None:
        super().__init__()
        check_widths(layers)
        if number < 1 or not layers:
            raise ValueError(
                f"Experts: at least one expert and one layer are needed, but found number={number} and "
                f"layers={list(layers)}."
            )
        widths = [in_features, *layers]
        self.layers = nn.ModuleList(EachLinear(number, *pair) for pair in zip(widths, layers, strict=False))
        self.after = nn.ModuleList(
            nn.ModuleList(nn.Sequential(*options.after(width)) for _ in range(number)) for width in layers
        )
        self.out_features = layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, D]`` or ``[B, N, D]`` to ``[B, N, H]``."""
        for layer, after in zip(self.layers, self.after, strict=True):
            made = layer(x).unbind(1)  # N of [B, H]
            x = torch.stack([module(part) for module, part in zip(after.children(), made, strict=True)], dim=1)
        return x


class Gates(ShowsWeights):
    r"""T softmax gates over N experts: :math:`g_t = \mathrm{softmax}(W_t x_t + b_t)`.

    Args:
        number: Number of gates, ``T``.
        in_features: Input width, ``D``.
        experts: Number of experts, ``N``.
        dropout: Probability of dropping an expert from a gate while training; the weights of the rest are normalised
            again, and a gate that would lose all experts keeps them. Keeps gates from polarising.

    Shapes:
        x: ``[B, D]``, which every gate reads, or ``[B, T, D]``, one for each. Returns ``[B, T, N]``, sums of 1.

    Raises:
        ValueError: If a size is not positive or the dropout is outside ``[0, 1)``.
    """

    def __init__(self, number: int, in_features: int, experts: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"gate dropout must lie in [0, 1), but found {dropout}.")
        self.scores = EachLinear(number, in_features, experts)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, D]`` or ``[B, T, D]`` to ``[B, T, N]``."""
        scores = self.scores(x)
        if self.dropout and self.training:
            dropped = torch.rand_like(scores) < self.dropout
            dropped &= ~dropped.all(-1, keepdim=True)
            scores = scores.masked_fill(dropped, -math.inf)  # the softmax of the rest is their renormalised one
        return scores.softmax(-1)
