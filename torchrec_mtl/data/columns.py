"""Arrow columns to NumPy arrays, whole columns at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column can be a label, a weight or a dense feature."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_bag(kind: pa.DataType) -> bool:
    """Whether a column can be a sparse feature: integers, or lists of integers."""
    return pa.types.is_integer(_item(kind))


def is_uint64(kind: pa.DataType) -> bool:
    """Whether a column's ids may wrap in int64."""
    return pa.types.is_uint64(_item(kind))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _item(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _is_list(kind) else kind


def floats(column: pa.Array) -> np.ndarray:
    """A numeric column as float32 ``[N]``; null becomes NaN."""
    return pc.cast(column, pa.float32(), safe=False).fill_null(float("nan")).to_numpy(zero_copy_only=False)


def bags(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A column of ids as bags: ``(values [V] int64, lengths [N] int32)``. A null is an empty bag or no id.

    Unsigned ids beyond int64 wrap to negative ones: hashed they stay distinct, and unhashed they lie outside any table.
    """
    if not _is_list(column.type):
        return _ids(column.drop_null()), column.is_valid().to_numpy(zero_copy_only=False).astype(np.int32)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
    values = column.flatten()  # leaves out what stands under a null list
    if values.null_count:
        row = np.repeat(np.arange(len(lengths)), lengths)
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        lengths = np.bincount(row[valid], minlength=len(lengths)).astype(np.int32)
        values = values.drop_null()
    return _ids(values), lengths


def hashed(ids: np.ndarray, rows: int) -> np.ndarray:
    """Ids to table rows by the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), modulo ``rows``.

    The same on every machine and in every version.
    """
    x = ids.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(rows)).astype(np.int64)


def _ids(values: pa.Array) -> np.ndarray:
    found = values.to_numpy(zero_copy_only=False)
    return found.view(np.int64) if found.dtype == np.uint64 else found.astype(np.int64, copy=False)
