"""Arrow columns to NumPy arrays, against obvious Python."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.data.columns import bags, floats, integers, is_bag, is_numeric, is_text, item_type, list_values


def as_lists(column):
    """What :func:`bags` gives, as one Python list a row."""
    found, lengths = bags(column)
    values = integers(found)
    assert values.dtype == np.int64
    assert lengths.dtype == np.int32
    assert len(lengths) == len(column)
    assert lengths.sum() == len(values)
    ends = np.cumsum(lengths)
    return [values[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def obvious(rows):
    """The same by plain Python: a null is an empty bag or no id."""
    return [
        [] if row is None else [row] if isinstance(row, int) else [each for each in row if each is not None]
        for row in rows
    ]


INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
@pytest.mark.parametrize(
    "rows",
    [[3, 0, 7], [3, None, 7], [None, None], [], [[1, 2], [], [3]], [[1, None], None, [None], [4, 5]], [None], [[]]],
)
def test_bags_of_every_integer_type(kind, rows):
    types = [kind] if not any(isinstance(row, list) for row in rows) else []
    types += [] if any(isinstance(row, int) for row in rows) else [pa.list_(kind), pa.large_list(kind)]
    for each in types:
        assert as_lists(pa.array(rows, each)) == obvious(rows), each


LISTS = st.lists(st.none() | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4), max_size=12)


@settings(deadline=None, max_examples=80)
@given(LISTS, st.booleans(), st.data())
def test_a_slice_reads_its_own_rows(rows, large, data):
    """Slices share their parent's buffers: an offset that is forgotten reads the neighbours' ids."""
    start = data.draw(st.integers(0, len(rows)))
    length = data.draw(st.integers(0, len(rows) - start))
    column = pa.array(rows, pa.large_list(pa.int64()) if large else pa.list_(pa.int64()))
    assert as_lists(column.slice(start, length)) == obvious(rows[start : start + length])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.none() | st.integers(0, 2**31 - 1), min_size=1, max_size=12), st.data())
def test_a_slice_of_single_ids_reads_its_own_rows(rows, data):
    start = data.draw(st.integers(0, len(rows)))
    assert as_lists(pa.array(rows, pa.int32()).slice(start)) == obvious(rows[start:])


def test_what_stands_under_a_null_list_is_left_out():
    """Arrow allows a null list to cover values; they are no ids."""
    column = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 5], pa.int32()), pa.array([1, 2, 3, 4, 5]), mask=pa.array([False, True, False])
    )
    assert column.to_pylist() == [[1, 2], None, [5]]
    assert as_lists(column) == [[1, 2], [], [5]]


@pytest.mark.parametrize("shape", ["single", "list"])
def test_a_large_unsigned_id_keeps_its_bits(shape):
    """2⁶⁴ − 1 is −1 in two's complement: no id is lost, and a hashed feature gets all 64 bits."""
    large = [2**64 - 1, 2**63, 5]
    column = pa.array(large, pa.uint64()) if shape == "single" else pa.array([large], pa.list_(pa.uint64()))
    values, _ = bags(column)
    assert [value % 2**64 for value in integers(values).tolist()] == large


@pytest.mark.parametrize("kind", [*INTEGERS, pa.float16(), pa.float32(), pa.float64(), pa.bool_()], ids=str)
def test_floats_of_every_numeric_type(kind):
    assert is_numeric(kind)
    rows = [True, None, False] if kind == pa.bool_() else [1, None, 0]
    found = floats(pa.array(rows, kind))
    assert found.dtype == np.float32
    assert found[[0, 2]].tolist() == [1, 0]
    assert math.isnan(found[1])


def test_floats_of_a_slice():
    assert floats(pa.array([1.5, None, 3.5, 4.5]).slice(2, 2)).tolist() == [3.5, 4.5]
    assert len(floats(pa.array([], pa.float64()))) == 0


@pytest.mark.parametrize("value", [16_777_217, -16_777_217, 1_760_000_001, 2**53 + 1])
def test_a_large_integer_becomes_the_nearest_float32(value):
    """A time stamp or an amount in cents lies beyond 2²⁴, where float32 no longer holds every integer."""
    assert floats(pa.array([value], pa.int64())).tolist() == [np.float32(value)]


@pytest.mark.parametrize(
    ("kind", "bag", "numeric"),
    [
        (pa.int32(), True, True),
        (pa.uint64(), True, True),
        (pa.list_(pa.int64()), True, False),
        (pa.large_list(pa.int16()), True, False),
        (pa.float32(), False, True),
        (pa.bool_(), False, True),
        (pa.list_(pa.float32()), False, False),
        (pa.list_(pa.string()), False, False),
        (pa.list_(pa.list_(pa.int64())), False, False),
        (pa.string(), False, False),
        (pa.timestamp("s"), False, False),
        (pa.null(), False, False),
    ],
    ids=str,
)
def test_what_a_type_can_be(kind, bag, numeric):
    assert is_bag(kind) == bag
    assert is_numeric(kind) == numeric


TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]


def texts(rows, kind):
    """Strings, or their bytes where the type holds bytes."""
    return pa.array(rows, pa.string()).cast(pa.binary()).cast(kind) if "binary" in str(kind) else pa.array(rows, kind)


def as_text_lists(column):
    """What :func:`bags` gives for strings, as one Python list a row."""
    values, lengths = bags(column)
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    found = plain.cast(pa.large_binary()).cast(pa.large_string()).to_pylist()
    ends = np.cumsum(lengths)
    return [found[end - length : end] for end, length in zip(ends, lengths, strict=True)]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_bags_of_strings(kind):
    assert is_text(kind)
    single = texts(["a", None, "", "bc"], kind)
    assert as_text_lists(single) == [["a"], [], [""], ["bc"]]
    assert as_text_lists(single.slice(1, 2)) == [[], [""]]
    nested = pa.ListArray.from_arrays(pa.array([0, 2, 2, 4], pa.int32()), single)
    assert as_text_lists(nested) == [["a"], [], ["", "bc"]]
    assert as_text_lists(nested.slice(2)) == [["", "bc"]]


@pytest.mark.parametrize("large", [False, True])
def test_bags_of_dictionaries_with_a_null_on_either_side(large):
    """A null may stand among the indices or in the dictionary; neither is an id."""
    values = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 2], pa.int8()), pa.array(["a", None, "b"]))
    assert as_text_lists(values) == [["a"], [], [], ["b"]]
    lists = pa.LargeListArray if large else pa.ListArray
    offsets = pa.array([0, 3, 3, 4], pa.int64() if large else pa.int32())
    assert as_text_lists(lists.from_arrays(offsets, values)) == [["a"], [], ["b"]]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_nan_is_no_value(kind):
    nan = float("nan")
    single = pa.array([0.5, nan, None, float("inf")], kind)
    nested = pa.array([[0.5, nan], [nan], None, [None, float("inf")]], pa.list_(kind))
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2]), pa.array([0.5, nan, float("inf")], kind))
    for column in (single, dictionary):
        values, lengths = bags(column)
        assert (values.to_pylist(), lengths.tolist()) == ([0.5, float("inf")], [1, 0, 0, 1])
    values, lengths = bags(nested)
    assert (values.to_pylist(), lengths.tolist()) == ([0.5, float("inf")], [1, 0, 0, 1])


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (pa.int8(), pa.int8()),
        (pa.list_(pa.string()), pa.string()),
        (pa.dictionary(pa.int8(), pa.int64()), pa.int64()),
        (pa.large_list(pa.dictionary(pa.int32(), pa.string())), pa.string()),
        (pa.list_(pa.list_(pa.int8())), pa.list_(pa.int8())),
    ],
    ids=str,
)
def test_the_type_of_single_values(kind, item):
    assert item_type(kind) == item


def test_list_values_keep_their_places():
    """Aligned columns need them: what is null in one column has a value in another."""
    values, lengths = list_values(pa.array([[0.5, None], None, [], [float("nan")]]))
    assert (values.to_pylist(), lengths.tolist()) == ([0.5, None, None], [2, 0, 0, 1])
    values, lengths = list_values(pa.array(["a", None]).dictionary_encode())
    assert (values.to_pylist(), lengths.tolist()) == (["a", None], [1, 1])
