"""MeanPooling against a padded float64 mean."""

import pytest
import torch

from tests.sequences.reference import assert_equals_reference, mask, pad
from torchrec_mtl.sequences import MeanPooling, SequenceWidths
from torchrec_mtl.testing.sequence_batches import LENGTHS, MAX_LENGTH, WIDTHS, batch


def reference(state, sequence):
    assert not state
    counts = mask(sequence.offsets, MAX_LENGTH).sum(1, keepdim=True).clamp(min=1)
    return pad(sequence.items, sequence.offsets, MAX_LENGTH).sum(1) / counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_mean_equals_the_padded_mean(lengths, dtype):
    assert_equals_reference(MeanPooling(WIDTHS), reference, batch(lengths), dtype)


def test_mean_by_hand():
    widths = SequenceWidths(items=2, query=0)
    sequence = batch([2, 0, 1], widths)
    with torch.no_grad():
        sequence.items.copy_(torch.tensor([[1.0, 2.0], [3.0, -6.0], [5.0, 7.0]]))
    assert MeanPooling(widths)(sequence).tolist() == [[2.0, -2.0], [0.0, 0.0], [5.0, 7.0]]
