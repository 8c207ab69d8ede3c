"""Jagged sums, softmax and padding: FBGEMM's kernels (float32) and torch's (float64) against plain slices."""

from itertools import pairwise

import pytest
import torch

from tests.sequences.reference import pad
from torchrec_mtl.sequences.jagged import ages, padded, row_softmax, row_sums, unpadded
from torchrec_mtl.testing.sequence_batches import LENGTHS, MAX_LENGTH, batch

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-13}
dtypes = pytest.mark.parametrize("dtype", CLOSE)
all_lengths = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())


def slices(values, sequence):
    return [values[start:end] for start, end in pairwise(sequence.offsets.tolist())]


def compare(found, expected, leaf, dtype):
    close = {"atol": CLOSE[dtype], "rtol": 10 * CLOSE[dtype]}
    torch.testing.assert_close(found, expected, **close)
    mix = torch.randn(found.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    one = torch.autograd.grad((found * mix).sum() + 0 * leaf.sum(), leaf, retain_graph=True)[0]
    other = torch.autograd.grad((expected * mix).sum() + 0 * leaf.sum(), leaf, retain_graph=True)[0]
    torch.testing.assert_close(one, other, **close)


@dtypes
@all_lengths
def test_softmax_of_each_row_and_column(lengths, dtype):
    sequence = batch(lengths, dtype=dtype)
    found = row_softmax(sequence.items, sequence, sequence.owners())
    compare(
        found,
        torch.cat([rows.softmax(0) for rows in [*slices(sequence.items, sequence), sequence.items[:0]]]),
        sequence.items,
        dtype,
    )


@dtypes
@all_lengths
def test_sum_of_each_row(lengths, dtype):
    sequence = batch(lengths, dtype=dtype)
    found = row_sums(sequence.items, sequence.owners(), len(lengths))
    sums = [rows.sum(0) for rows in slices(sequence.items, sequence)]
    compare(found, torch.stack(sums) if sums else sequence.items.new_zeros(0, 8), sequence.items, dtype)


@dtypes
@all_lengths
def test_padding_and_back(lengths, dtype):
    sequence = batch(lengths, dtype=dtype)
    places = padded(sequence.items, sequence, MAX_LENGTH)
    compare(places, pad(sequence.items, sequence.offsets, MAX_LENGTH), sequence.items, dtype)
    compare(unpadded(places * 3, sequence), sequence.items * 3, sequence.items, dtype)


@dtypes
def test_softmax_of_large_scores_is_stable(dtype):
    """The two scores differ by ln 3, so the weights are 1/4 and 3/4, however large they are; a lone step weighs 1."""
    sequence = batch([2, 1], dtype=dtype)
    scores = torch.tensor([[4096.0], [4096.0 + 1.0], [-4096.0]], dtype=dtype)
    found = row_softmax(scores, sequence, sequence.owners()).flatten()
    share = 1 / (1 + torch.tensor(1.0, dtype=dtype).exp())
    torch.testing.assert_close(found, torch.stack([share, 1 - share, torch.tensor(1.0, dtype=dtype)]))


def test_sums_and_softmax_of_bfloat16_are_taken_in_float32():
    sequence = batch([3, 2], dtype=torch.bfloat16)
    assert row_softmax(sequence.items, sequence, sequence.owners()).dtype == torch.float32
    ones = torch.ones(1001, 1, dtype=torch.bfloat16)  # in bfloat16 the sum would stick at 256
    assert row_sums(ones, torch.zeros(1001, dtype=torch.int64), 1).item() == 1001


def test_ages_count_from_the_newest():
    sequence = batch([3, 0, 1, 2])
    assert ages(sequence, sequence.owners()).tolist() == [2, 1, 0, 0, 1, 0]
    empty = batch([])
    assert ages(empty, empty.owners()).tolist() == []
