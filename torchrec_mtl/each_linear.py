"""Many linear layers of one shape, computed by whatever product is fastest."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# act on each number by itself, without parameters: one call may serve many layers
ELEMENTWISE = frozenset(
    {
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
        *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Dropout, nn.Identity),
    }
)
BATCHED_BYTES = 2**25  # from here on glibc maps and unmaps memory at every use, and faults it in page by page
STACKED_ROWS = 2048


def elementwise(modules: Iterable[nn.Module]) -> bool:
    """Whether modules are known to act on each number by itself; a class of one's own is not."""
    return all(type(module) in ELEMENTWISE for module in modules)


def is_recorded() -> bool:
    """Whether torch compiles, exports or traces what runs."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def batched_is_faster(x: Tensor, widest: int) -> bool:
    """Whether batched products beat one layer after another, where the widest tensor holds ``widest`` numbers a row.

    On CUDA each product of a loop is a launch. On CPU a batched one is up to a tenth faster, as long as what it reads
    and makes is small. A graph that is recorded must not depend on the number of rows.
    """
    if x.device.type != "cpu" or is_recorded():
        return True
    return x.shape[0] * widest * x.element_size() < BATCHED_BYTES


def stacking_pays(x: Tensor) -> bool:
    """Whether to stack the weights of layers that stand apart, as towers do, for one product of them all.

    On CPU it takes longer than it saves, unless there are many rows.
    """
    return x.device.type != "cpu" or is_recorded() or x.shape[0] >= STACKED_ROWS


def each_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""N linear layers: :math:`y_n = W_n x_n + b_n`.

    Args:
        x: ``[B, D]``, which every layer reads, or ``[B, N, D]``, one for each.
        weight: ``[N, H, D]``.
        bias: ``[N, H]``.

    Returns:
        ``[B, N, H]``, of any strides.
    """
    if x.ndim == 2:
        return linear(x, weight.flatten(0, 1), bias.flatten()).unflatten(1, bias.shape)
    if batched_is_faster(x, weight.shape[0] * max(weight.shape[1:])):
        weight = weight.flatten().unflatten(0, weight.shape)  # has its gradient in its own strides, as DDP wants it
        return torch.baddbmm(bias.unsqueeze(1), x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
    # unbind has one backward for all layers, where each slice of its own would fill zeros for the rest
    each = zip(x.unbind(1), weight.unbind(), bias.unbind(), strict=True)
    return torch.stack([linear(*part) for part in each], dim=1)


class EachLinear(nn.Module):
    r"""N linear layers of one shape: :math:`y_n = W_n x_n + b_n`, or :math:`W_n x + b_n` of one input for all.

    Each starts as ``torch.nn.Linear`` does. Weights are held as one ``[N, H, D]``, biases as ``[N, H]``, however the
    products are made: see :func:`each_linear`.

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
        self.weight = nn.Parameter(torch.empty(number, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(number, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and biases anew."""
        bound = 1 / math.sqrt(self.weight.shape[2])
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, D]`` or ``[B, N, D]`` to ``[B, N, H]``."""
        return each_linear(x, self.weight, self.bias)
