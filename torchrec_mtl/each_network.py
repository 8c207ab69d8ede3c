"""Networks of one shape, computed one after another with as little memory traffic as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchrec_mtl.each_linear import batched_is_faster, each_linear, is_recorded

FEW_ROWS, SMALL = 1024, 2**14  # of rows and of a layer's weights; below both, calls cost more than memory traffic


def each_network(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, last: bool) -> Tensor:
    r"""N networks of linear layers with ReLU between.

    .. math:: y_n = W^L_n \, \mathrm{relu}(\dots \mathrm{relu}(W^1_n x_n + b^1_n) \dots) + b^L_n

    The same numbers as a loop over ``nn.Sequential``, to rounding. On CPU the gain is what is not done: activations in
    place, no sum of N gradients of ``x``, no copies of outputs and of weights' gradients into one tensor. Elsewhere,
    under autocast and ``torch.func``, and for little to predict the products are batched.

    Args:
        x: ``[B, D]``, which every network reads, or ``[B, N, D]``, one for each.
        weights: ``[N, H, D]`` of each layer.
        biases: ``[N, H]`` of each layer.
        last: Whether a ReLU follows the last layer too.

    Returns:
        ``[B, N, H]``.
    """
    if one_by_one(x, weights):
        return _EachNetwork.apply(x, last, *weights, *biases)
    return _batched(x, weights, biases, last)


def _batched(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], last: bool) -> Tensor:
    for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True), start=1):
        x = each_linear(x, weight, bias)
        x = x.relu() if last or depth < len(weights) else x
    return x


def is_relu(modules: Sequence[nn.Module]) -> bool:
    """Whether modules are one ReLU and nothing else."""
    return len(modules) == 1 and type(modules[0]) is nn.ReLU


def one_by_one(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether one network after another, by a backward pass written out, is possible and fastest."""
    if x.device.type != "cpu" or is_recorded() or is_transformed(x) or torch.is_autocast_enabled("cpu"):
        return False
    if not torch.is_grad_enabled() or (x.ndim == 2 and len(weights) == 1):  # where there is next to nothing to save
        return not batched_is_faster(x, max(weight.shape[0] * weight.shape[1] for weight in weights))
    return x.shape[0] >= FEW_ROWS or any(weight[0].numel() >= SMALL for weight in weights)


def is_transformed(x: Tensor) -> bool:
    """Whether ``torch.func`` transforms what runs, or a tensor is several gradients (``is_grads_batched``)."""
    functorch = torch._C._functorch
    return functorch.peek_interpreter_stack() is not None or functorch.is_legacy_batchedtensor(x)


class _EachNetwork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, last: bool, *parameters: Tensor) -> Tensor:
        depth = len(parameters) // 2
        weights, biases = parameters[:depth], parameters[depth:]
        made = x.new_empty(x.shape[0], *biases[-1].shape)  # [B, N, H]
        hidden = []
        for n, part in enumerate(_parts(x, len(biases[0]))):
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                part = torch.addmm(bias[n], part, weight[n].t()).relu_()  # noqa: PLW2901
                hidden.append(part)
            output = torch.addmm(biases[-1][n], part, weights[-1][n].t(), out=made[:, n])
            if last:
                output.relu_()
        ctx.last = last
        ctx.depth = depth
        ctx.save_for_backward(x, made, *parameters, *hidden)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        depth, number = ctx.depth, gradient.shape[1]
        x, made, *rest = ctx.saved_tensors
        weights, biases, hidden = rest[:depth], rest[depth : 2 * depth], rest[2 * depth :]
        if torch.is_grad_enabled():  # create_graph: gradients of gradients are autograd's own
            # views: what else a weight, or what x was made from, does for the loss is not this call's
            sources = [each.view_as(each) if each.requires_grad else each for each in (x, *weights, *biases)]
            wanted = [each for each in sources if each.requires_grad]
            again = _batched(sources[0], sources[1 : 1 + depth], sources[1 + depth :], ctx.last)
            found = iter(torch.autograd.grad(again, wanted, gradient, create_graph=True))
            of_x, *others = (next(found) if each.requires_grad else None for each in sources)
            return of_x, None, *others
        if is_transformed(gradient):
            inner = [torch.stack(hidden[layer :: depth - 1], dim=1) for layer in range(depth - 1)]  # [B, N, H] each
            return _transformed_backward(gradient, x, weights, inner, made if ctx.last else None)
        of_x = torch.empty_like(x, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        trained = any(ctx.needs_input_grad[2:])
        of_weights = [torch.empty_like(weight) for weight in weights]
        of_biases = [torch.empty_like(bias) for bias in biases]
        for n, read in enumerate(_parts(x, number)):
            inputs = [read, *hidden[n * (depth - 1) : (n + 1) * (depth - 1)]]  # of each layer
            above = gradient[:, n]
            if ctx.last:
                above = torch.ops.aten.threshold_backward(above, made[:, n], 0)  # what relu's own backward calls
            for layer in reversed(range(depth)):
                if trained:
                    torch.mm(above.t(), inputs[layer], out=of_weights[layer][n])
                    torch.sum(above, 0, out=of_biases[layer][n])
                if layer:
                    above = above @ weights[layer][n]
                    torch.ops.aten.threshold_backward.grad_input(above, inputs[layer], 0, grad_input=above)
            if of_x is not None:
                _add_product(of_x, n, above, weights[0][n])
        return (of_x, None, *(of_weights if trained else [None] * depth), *(of_biases if trained else [None] * depth))


def _transformed_backward(
    gradient: Tensor, x: Tensor, weights: Sequence[Tensor], hidden: Sequence[Tensor], made: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of :class:`_EachNetwork` by operations that can be batched over several gradients."""
    of_weights, of_biases = [], []
    above, activations = gradient, [*hidden, made]
    for depth in reversed(range(len(weights))):
        active = activations[depth]
        above = above if active is None else above * (active > 0)
        of_biases.append(above.sum(0))
        read = hidden[depth - 1] if depth else x if x.ndim == 3 else x.unsqueeze(1).expand(-1, above.shape[1], -1)
        of_weights.append(torch.bmm(above.permute(1, 2, 0), read.transpose(0, 1)))
        above = torch.bmm(above.transpose(0, 1), weights[depth]).transpose(0, 1)  # [B, N, D]
    return above if x.ndim == 3 else above.sum(1), None, *reversed(of_weights), *reversed(of_biases)


def _parts(x: Tensor, number: int) -> Sequence[Tensor]:
    return [x] * number if x.ndim == 2 else x.unbind(1)


def _add_product(total: Tensor, n: int, above: Tensor, weight: Tensor) -> None:
    """Adds what network n contributes to the gradient of the input; the first to a shared one overwrites."""
    if total.ndim == 3:
        torch.mm(above, weight, out=total[:, n])
    elif n:
        total.addmm_(above, weight)
    else:
        torch.mm(above, weight, out=total)
