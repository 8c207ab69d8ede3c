"""Many networks of one shape, and the gates that mix them: what every mixture of experts is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from torchrec_mtl.each_linear import EachLinear, batched_is_faster, elementwise
from torchrec_mtl.each_network import each_network, is_relu
from torchrec_mtl.inside.shown import ShowsVectors, ShowsWeights
from torchrec_mtl.mlp import PLAIN, LayerOptions, check_options, check_widths

VECTOR = 16  # floats; below, torch's softmax over the last axis is a tenth as fast on CPU as over another


class Experts(ShowsVectors):
    """N MLPs of one shape, each with parameters of its own, however their products are made.

    Few rows go through one batched product a layer, many through one expert after another, and on CPU those with plain
    ReLU by a faster loop: see :func:`~torchrec_mtl.each_network.each_network`. The result is the same to rounding.
    Hook the bank itself: the layers inside are not called one by one.

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
        check_options(options)
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
        self.number = number
        self.widths = tuple(layers)
        self.out_features = layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, D]`` or ``[B, N, D]`` to ``[B, N, H]``."""
        pairs: Any = zip(self.layers, self.after, strict=True)
        stages = [(layer, list(after)) for layer, after in pairs]
        if all(is_relu(after[0]) for _, after in stages):  # all experts' are made alike
            weights, biases = zip(*((layer.weight, layer.bias) for layer, _ in stages), strict=True)
            return each_network(x, weights, biases, last=True)
        widest = max(self.widths) if x.ndim == 2 else max(x.shape[2], *self.widths)
        return _together(x, stages) if batched_is_faster(x, self.number * widest) else _one_by_one(x, stages)


def _together(x: Tensor, stages: Sequence[tuple[Any, list[Any]]]) -> Tensor:
    for layer, after in stages:
        x = layer(x)
        if elementwise(after[0]):
            x = after[0](x)
        else:
            x = torch.stack([module(part) for module, part in zip(after, x.unbind(1), strict=True)], dim=1)
    return x


def _one_by_one(x: Tensor, stages: Sequence[tuple[Any, list[Any]]]) -> Tensor:
    each = [zip(layer.weight.unbind(), layer.bias.unbind(), after, strict=True) for layer, after in stages]
    # unbind has one backward for all, where each slice of its own would fill zeros for the rest
    parts = x.unbind(1) if x.ndim == 3 else [x] * len(stages[0][1])
    made = []
    for n, steps in enumerate(zip(*each, strict=True)):  # of one expert
        part = parts[n]
        for weight, bias, after in steps:
            part = after(linear(part, weight, bias))
        made.append(part)
    return torch.stack(made, dim=1)


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
        if scores.device.type == "cpu" and scores.shape[-1] < VECTOR:
            return scores.transpose(1, 2).softmax(1).transpose(1, 2)
        return scores.softmax(-1)
