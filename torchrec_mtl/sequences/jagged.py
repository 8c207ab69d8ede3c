"""Sums, softmax and padding of jagged steps."""

from __future__ import annotations

import fbgemm_gpu  # noqa: F401  # registers torch.ops.fbgemm
import torch
from torch import Tensor

from torchrec_mtl.sequences.attention import JaggedSequence


def row_sums(values: Tensor, owners: Tensor, num_rows: int) -> Tensor:
    """Adds up each row's steps in float32 (or float64): ``[V, S]`` to ``[B, S]``, zeros for a row without steps.

    FBGEMM's ``segment_sum_csr`` has no autograd, and the backward of its ``jagged_jagged_bmm`` is slower on CPU.
    """
    values = values if values.dtype == torch.float64 else values.float()
    return values.new_zeros(num_rows, values.shape[1]).index_add(0, owners, values)


def row_softmax(scores: Tensor, sequence: JaggedSequence, owners: Tensor) -> Tensor:
    """Softmax over each row's steps in float32 (or float64), each column alone: ``[V, H]`` to ``[V, H]``."""
    if scores.dtype != torch.float64:
        return torch.ops.fbgemm.jagged_softmax(scores.float(), sequence.offsets, sequence.max_length)[0]
    # FBGEMM's jagged kernels know no float64
    peaks = scores.detach().new_full((sequence.num_rows, scores.shape[1]), -torch.inf)
    peaks = peaks.scatter_reduce(0, owners.unsqueeze(1).expand_as(scores), scores.detach(), "amax")
    powers = (scores - peaks.index_select(0, owners)).exp()
    return powers / row_sums(powers, owners, sequence.num_rows).index_select(0, owners)


def padded(values: Tensor, sequence: JaggedSequence, length: int) -> Tensor:
    """Lays each row's steps at the front of ``length`` places, zeros behind: ``[V, S]`` to ``[B, L, S]``."""
    if values.dtype != torch.float64:
        return torch.ops.fbgemm.jagged_to_padded_dense(values, [sequence.offsets], [length])
    places = values.new_zeros(sequence.num_rows * length, values.shape[1])
    return places.index_copy(0, _places(sequence, length), values).unflatten(0, (sequence.num_rows, length))


def unpadded(values: Tensor, sequence: JaggedSequence) -> Tensor:
    """Takes the steps out of their places: ``[B, L, S]`` to ``[V, S]``."""
    if values.dtype != torch.float64:
        return torch.ops.fbgemm.dense_to_jagged(values, [sequence.offsets], sequence.items.shape[0])[0]
    return values.flatten(0, 1).index_select(0, _places(sequence, values.shape[1]))


def ages(sequence: JaggedSequence, owners: Tensor) -> Tensor:
    """Places from the newest step of the row, whose age is 0: ``[V]``."""
    return sequence.offsets[1:].index_select(0, owners) - 1 - torch.arange(len(owners), device=owners.device)


def _places(sequence: JaggedSequence, length: int) -> Tensor:
    owners = sequence.owners()
    return owners * length + torch.arange(len(owners), device=owners.device) - sequence.offsets.index_select(0, owners)
