"""The contract's records, and what it refuses."""

import dataclasses
import re

import pytest
import torch

from torchrec_mtl.sequences import MeanPooling, SequenceAttention, SequenceWidths
from torchrec_mtl.testing.sequence_batches import WIDTHS, batch


def test_a_sequence_knows_its_rows():
    sequence = batch([2, 0, 1])
    assert sequence.num_rows == 3
    assert sequence.lengths.tolist() == [2, 0, 1]
    assert sequence.owners().tolist() == [0, 0, 2]
    assert sequence.padded_length() == 2


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_there_is_always_one_place_to_pad_to(lengths):
    assert batch(lengths).padded_length() == 1


@pytest.mark.parametrize(
    "widths", [{"items": 0, "query": 1}, {"items": 2, "query": -1}, {"items": 2, "query": 2, "user": -3}]
)
def test_widths_refuse_what_is_no_width(widths):
    text = "SequenceWidths: 'items' must be at least 1 and the others at least 0, but found "
    with pytest.raises(ValueError, match=re.escape(text)):
        SequenceWidths(**widths)


def test_a_block_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        SequenceAttention(WIDTHS, 4)


def test_a_block_makes_something():
    class Void(SequenceAttention):
        def forward(self, sequence):
            return sequence.items

    with pytest.raises(ValueError, match="Void: out_features must be at least 1, but found 0"):
        Void(WIDTHS, 0)


@pytest.mark.parametrize(
    ("side", "shape"), [("items", (3, 7)), ("query", (1, 8)), ("properties", (2, 4)), ("user", (2, 5))]
)
def test_a_side_of_another_shape_is_refused(side, shape):
    sequence = dataclasses.replace(batch([2, 1]), **{side: torch.zeros(shape)})
    with pytest.raises(
        ValueError,
        match=rf"MeanPooling: 2 rows with 3 steps must have .* found .*'{side}': {re.escape(str(list(shape)))}",
    ):
        MeanPooling(WIDTHS)(sequence)


@pytest.mark.parametrize(
    ("offsets", "text"),
    [
        ([1, 2, 3], "offsets must ascend from 0 to the number of steps, 3, but found 1 to 3"),
        ([0, 2, 2], "offsets must ascend from 0 to the number of steps, 3, but found 0 to 2"),
        ([0, 4, 3], "found 0 to 3 and a shortest row of -1 steps"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(offsets, text):
    sequence = dataclasses.replace(batch([2, 1]), offsets=torch.tensor(offsets))
    with pytest.raises(ValueError, match=text):
        MeanPooling(WIDTHS)(sequence)


def test_a_row_above_the_bound_is_refused():
    sequence = dataclasses.replace(batch([2, 5]), max_length=4)
    with pytest.raises(ValueError, match=r"a row has 5 steps, but max_length is 4\. Truncate the rows before"):
        MeanPooling(WIDTHS)(sequence)
