"""Aligned list columns to jagged steps."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrec_mtl.data import BehaviourSequence, SparseFeature
from torchrec_mtl.data.steps import aligned, distinct


def sequence(columns=2, max_length=50):
    return BehaviourSequence("bought", [SparseFeature(f"c{i}") for i in range(columns)], max_length=max_length)


def rows_of(*columns):
    return pa.record_batch({f"c{i}": pa.array(column, pa.list_(pa.int64())) for i, column in enumerate(columns)})


steps = st.none() | st.integers(0, 99)
row = st.integers(0, 6).flatmap(lambda n: st.lists(st.tuples(steps, steps), min_size=n, max_size=n))


@given(st.lists(st.none() | row, max_size=8), st.integers(1, 5))
def test_the_last_steps_without_a_null_are_kept(rows, max_length):
    """Against the obvious loop over rows."""
    columns = [[None if row is None else [step[i] for step in row] for row in rows] for i in range(2)]
    values, lengths = aligned(sequence(max_length=max_length), rows_of(*columns))
    kept = [[step for step in row or [] if None not in step][-max_length:] for row in rows]
    assert lengths.tolist() == [len(row) for row in kept]
    for i in range(2):
        assert values[i].to_pylist() == [step[i] for row in kept for step in row]


def test_a_slice_of_rows_is_read_as_such():
    rows = rows_of([[1], [2, 3], [4, 5, 6]], [[7], [8, 9], [1, 2, 3]]).slice(1, 2)
    values, lengths = aligned(sequence(max_length=2), rows)
    assert lengths.tolist() == [2, 2]
    assert [v.to_pylist() for v in values] == [[2, 3, 5, 6], [8, 9, 2, 3]]


def test_columns_of_unequal_length_are_refused():
    text = r"Sequence 'bought': .* found a row with 2 values of 'c0' and 1 of 'c1'"
    with pytest.raises(ValueError, match=text):
        aligned(sequence(), rows_of([[1], [1, 2]], [[1], [1]]))


def test_no_rows_have_no_steps():
    values, lengths = aligned(sequence(), rows_of([], []))
    assert len(lengths) == len(values[0]) == len(values[1]) == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"items": []}, "Sequence 's' needs at least one item column"),
        ({"properties": [SparseFeature("a")]}, r"Sequence 's': columns must differ, but found \['a', 'b', 'a'\]"),
        ({"query": ["x"]}, r"one feature of the candidate for each item column \['a', 'b'\].*found \['x'\]"),
        ({"max_length": 0}, "max_length must be at least 1, but found 0"),
    ],
)
def test_a_wrong_declaration_is_refused(changes, text):
    arguments = {"items": [SparseFeature("a"), SparseFeature("b")], **changes}
    with pytest.raises(ValueError, match=text):
        BehaviourSequence("s", **arguments)


@given(st.lists(st.integers(0, 99), max_size=30), st.sampled_from([100, 10**6]))
def test_different_ids_are_found_once(ids, table_rows):
    """By marking in a small table, by sorting in a large one."""
    found, place = distinct(np.array(ids, np.int64), table_rows)
    assert found.tolist() == sorted(set(ids))
    assert found[place].tolist() == ids
