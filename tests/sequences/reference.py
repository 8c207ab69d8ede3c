"""Padded float64 mathematics to compare a block with, written from the papers' formulas and apart from the package."""

from itertools import pairwise

import torch

from torchrec_mtl.testing.sequence_batches import SIDES, in_dtype


def pad(values, offsets, length):
    """``[V, S]`` to ``[B, L, S]``, one row after another."""
    ends = offsets.tolist()
    rows = [
        torch.cat([values[start:end], values.new_zeros(length - (end - start), values.shape[1])])
        for start, end in pairwise(ends)
    ]
    return torch.stack(rows) if rows else values.new_zeros(0, length, values.shape[1])


def mask(offsets, length):
    return torch.arange(length) < offsets.diff()[:, None]  # [B, L]


def masked_softmax(scores, filled):
    """Over dimension 1 of ``[B, L, …]``; zeros in a row that is not filled at all."""
    filled = filled.reshape(*filled.shape, *[1] * (scores.ndim - 2))
    powers = (scores - scores.detach().amax(1, keepdim=True)).exp() * filled
    return powers / powers.sum(1, keepdim=True).clamp(min=1e-300)


def assert_equals_reference(block, reference, sequence, dtype):
    """Values, and gradients with respect to all inputs and parameters, of a random mixture of the outputs."""
    close = {torch.float64: {"atol": 1e-11, "rtol": 1e-10}, torch.float32: {"atol": 2e-5, "rtol": 1e-4}}[dtype]
    sequence, exact = in_dtype(sequence, dtype), in_dtype(sequence, torch.float64)
    state = {name: value.detach().double().requires_grad_() for name, value in block.named_parameters()}
    block = block.to(dtype)
    found, expected = block(sequence), reference(state, exact)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, **close)
    mix = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (found * mix.to(dtype)).sum().backward()
    ((expected * mix).sum() + 0 * exact.items.sum()).backward()  # without rows, nothing else leads to a leaf
    leaves = {side: (getattr(sequence, side), getattr(exact, side)) for side in SIDES}
    leaves |= {name: (value, state[name]) for name, value in block.named_parameters()}
    for name, (leaf, exact_leaf) in leaves.items():
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in (leaf, exact_leaf)]
        torch.testing.assert_close(grads[0].double(), grads[1], **close, msg=lambda text, name=name: f"{name}: {text}")
