"""Aligned list columns to jagged steps, whole columns at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_mtl.data.columns import list_values
from torchrec_mtl.data.sequence import BehaviourSequence

_MARKED_ROWS = 32  # marks a table of up to so many rows an id


def aligned(sequence: BehaviourSequence, rows: pa.RecordBatch) -> tuple[list[pa.Array], np.ndarray]:
    """Steps of all rows: values ``[V]`` of each column, and lengths ``[N]`` int32 that all columns share.

    A null list has no step. A step with a null in any column is left out of all. Of what remains the last
    ``max_length`` steps of a row are kept.

    Raises:
        ValueError: If the columns of a row differ in length.
    """
    found = [list_values(rows.column(column.column_name)) for column in sequence.columns]
    lengths = found[0][1]
    for column, (_, other) in zip(sequence.columns, found, strict=True):
        if not np.array_equal(lengths, other):
            wrong = int(np.flatnonzero(lengths != other)[0])
            first = sequence.columns[0].name
            raise ValueError(
                f"Sequence '{sequence.name}': its columns must have lists of equal length in every row, but found a "
                f"row with {lengths[wrong]} values of '{first}' and {other[wrong]} of '{column.name}'."
            )
    columns = [values for values, _ in found]
    keep = np.ones(len(columns[0]), dtype=bool)
    for values in columns:
        if values.null_count:
            keep &= values.is_valid().to_numpy(zero_copy_only=False)
    if keep.all() and lengths.max(initial=0) <= sequence.max_length:
        return columns, lengths
    row = np.repeat(np.arange(len(lengths)), lengths)[keep]
    lengths = np.bincount(row, minlength=len(lengths)).astype(np.int32)
    to_end = np.cumsum(lengths)[row] - np.arange(len(row))  # 1 for a row's last step
    kept = pa.array(np.flatnonzero(keep)[to_end <= sequence.max_length])
    return [pc.take(values, kept) for values in columns], np.minimum(lengths, sequence.max_length).astype(np.int32)


def distinct(ids: np.ndarray, table_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The different ids ``[U]`` in ascending order, and the place of each id among them: ``[V]`` int64 each."""
    if table_rows > _MARKED_ROWS * max(len(ids), 1):
        return np.unique(ids, return_inverse=True)
    marked = np.zeros(table_rows, dtype=bool)  # in a table that is not much larger, marking is faster than sorting
    marked[ids] = True
    found = np.flatnonzero(marked)
    place = np.empty(table_rows, np.int64)
    place[found] = np.arange(len(found))
    return found, place[ids]
