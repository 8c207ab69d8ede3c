"""Counts how often each value occurs, in one pass and in memory that grows with the different values only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_mtl.data.columns import bags, integers, is_text, item_type

_PENDING = 1_000_000  # counts that wait at most, beyond as many as there are different values


def value_type(kind: pa.DataType) -> pa.DataType | None:
    """What a vocabulary of a column holds, int64 or large_string; ``None`` if it cannot have one."""
    item = item_type(kind)
    if pa.types.is_integer(item):
        return pa.int64()
    return pa.large_string() if is_text(item) else None


class ValueCounts:
    """Counts of integers or strings. Unsigned integers beyond int64 wrap to negative ones, as everywhere.

    Args:
        kind: int64 or large_string, from :func:`value_type`.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind
        self._total = pa.table({"value": pa.array([], kind), "count": pa.array([], pa.int64())})
        self._pending: list[pa.Table] = []

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Counts the values of a column: lists are flattened, nulls left out, dictionaries decoded."""
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            values, _ = bags(chunk)
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            values = pc.cast(values, self.kind) if is_text(values.type) else pa.array(integers(values))
            counts = pc.value_counts(values)
            self._pending.append(pa.table({"value": counts.field("values"), "count": counts.field("counts")}))
            if sum(table.num_rows for table in self._pending) > self._total.num_rows + _PENDING:
                self._merge()

    def total(self) -> pa.Table:
        """``(value, count)``, the most frequent first, equally frequent ones in increasing order."""
        self._merge()
        return self._total.sort_by([("count", "descending"), ("value", "ascending")])

    def _merge(self) -> None:
        both = pa.concat_tables([self._total, *self._pending])
        merged = both.group_by("value").aggregate([("count", "sum")])
        self._total = pa.table({"value": merged["value"], "count": merged["count_sum"]})
        self._pending = []


def keep(counts: pa.Table, min_count: int = 1, max_size: int | None = None) -> pa.Table:
    """The values that occur at least ``min_count`` times, at most the ``max_size`` most frequent.

    Args:
        counts: From :meth:`ValueCounts.total`.
        min_count: Threshold.
        max_size: Limit; ``None`` for none.

    Raises:
        ValueError: If ``min_count`` or ``max_size`` is not positive.
    """
    check_limits(min_count, max_size)
    often = int(np.count_nonzero(counts["count"].to_numpy() >= min_count))  # sorted: the others stand behind
    return counts.slice(0, often if max_size is None else min(often, max_size))


def check_limits(min_count: int, max_size: int | None) -> None:
    """Refuses limits of :func:`keep` that leave nothing.

    Raises:
        ValueError: If ``min_count`` or ``max_size`` is not positive.
    """
    if min_count < 1 or (max_size is not None and max_size < 1):
        raise ValueError(f"min_count and max_size must be at least 1, but found {min_count} and {max_size}.")


def build_vocabulary(
    tables: Iterable[pa.Table | pa.RecordBatch], columns: Sequence[str], min_count: int = 1, max_size: int | None = None
) -> pa.Table:
    """Counts the values of some columns together, in one pass.

    Args:
        tables: Rows in parts; each part is let go before the next is asked for.
        columns: Columns of integers or of strings, or of lists of these.
        min_count: Values that occur less often are left out.
        max_size: At most so many values are kept, the most frequent; ``None`` for all.

    Returns:
        ``(value, count)``, the most frequent first, equally frequent ones in increasing order.

    Raises:
        ValueError: If there is no part, columns hold neither integers nor strings or some of each, or a limit is not
            positive.
    """
    check_limits(min_count, max_size)
    counts: ValueCounts | None = None
    for table in tables:
        for column in columns:
            counts = counts or ValueCounts(check_kind(table.schema.field(column)))
            check_kind(table.schema.field(column), counts.kind)
            counts.add(table.column(column))
    if counts is None:
        raise ValueError("A vocabulary needs rows, but found none.")
    return keep(counts.total(), min_count, max_size)


def check_kind(field: pa.Field, other: pa.DataType | None = None) -> pa.DataType:
    """What a vocabulary of a column holds.

    Raises:
        ValueError: If it cannot have one, or its vocabulary holds something else already.
    """
    kind = value_type(field.type)
    if kind is None:
        raise ValueError(
            f"column '{field.name}' must hold integers, strings or lists of these, but has type {field.type}."
        )
    if other is not None and kind != other:
        held = "strings" if is_text(other) else "integers"
        raise ValueError(
            f"column '{field.name}' has type {field.type}, but its vocabulary holds {held} from elsewhere: give the "
            f"columns vocabularies of their own, or the files one type."
        )
    return kind
