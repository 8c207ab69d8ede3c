"""Arrow columns to NumPy arrays, whole columns at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column can be a label, a weight or a dense feature."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_bag(kind: pa.DataType) -> bool:
    """Whether a column can be a sparse feature as it stands: integers, or lists of integers."""
    return pa.types.is_integer(item_type(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether values are strings, or bytes (as older writers store strings)."""
    strings = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return strings or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_view(kind)


def item_type(kind: pa.DataType) -> pa.DataType:
    """Type of a column's single values: inside its lists, and behind a dictionary."""
    item = kind.value_type if is_list(kind) else kind
    return item.value_type if pa.types.is_dictionary(item) else item


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds a list a row."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_view(kind: pa.DataType) -> bool:
    return pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)


def floats(column: pa.Array) -> np.ndarray:
    """A numeric column as float32 ``[N]``; null becomes NaN."""
    numbers = pc.cast(column, pa.float32(), safe=False)
    if numbers.null_count:
        numbers = numbers.fill_null(float("nan"))
    return numbers.to_numpy(zero_copy_only=False)


def list_values(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """A column's values as they stand: ``(values [V], lengths [N] int32)``; a single value is a list of one.

    A null list has no value. Null and NaN values are null. Dictionary-encoded values stay so.
    """
    if not is_list(column.type):
        return _missing_as_null(column), np.ones(len(column), np.int32)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
    return _missing_as_null(column.flatten()), lengths  # flatten leaves out what stands under a null list


def bags(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """A column as bags: ``(values [V] without nulls, lengths [N] int32)``.

    A null or NaN is no value: an empty bag, or left out of its list. Dictionary-encoded values stay so.
    """
    values, lengths = list_values(column)
    if values.null_count:
        row = np.repeat(np.arange(len(lengths)), lengths)
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        lengths = np.bincount(row[valid], minlength=len(lengths)).astype(np.int32)
        values = values.drop_null()
    return values, lengths


def integers(values: pa.Array) -> np.ndarray:
    """Integers without nulls as int64 ``[V]``.

    Unsigned ones beyond int64 wrap to negative ones: hashed they stay distinct, unhashed they lie outside any table.
    """
    found = values.to_numpy(zero_copy_only=False)
    return found.view(np.int64) if found.dtype == np.uint64 else found.astype(np.int64, copy=False)


def _missing_as_null(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        if not values.dictionary.null_count and not pa.types.is_floating(values.type.value_type):
            return values
        values = values.dictionary_decode()  # a null may stand in the dictionary itself, where null_count misses it
    if _is_view(values.type):
        values = pc.cast(values, pa.large_binary())  # Arrow filters no views
    if pa.types.is_floating(values.type):
        values = pc.cast(values, pa.float64())
        nan = pc.is_nan(values)
        if pc.any(nan).as_py():
            values = pc.if_else(nan, pa.scalar(None, pa.float64()), values)
    return values
