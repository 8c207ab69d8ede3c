"""A split's rows, wherever they come from, and the check that they are what the job reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from torchrec_mtl.data.columns import is_list
from torchrec_mtl.data.convert import BatchConverter
from torchrec_mtl.data.unify import unified
from torchrec_mtl.hints import did_you_mean

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class RowGroup:
    """Rows that lie together: the unit of shuffling.

    Args:
        path: File, as the user knows it.
        index: Number of the row group in its file.
        rows: Number of rows.
    """

    path: str
    index: int
    rows: int

    def __str__(self) -> str:
        return f"row group {self.index} of {self.path}"


class Source(ABC):
    """A split: row groups that can be read from any row on.

    Args:
        converter: Says which columns are read, and as what.
        keys: Columns carried along as they are, for predictions and groups.
    """

    files: list[str]
    row_groups: list[RowGroup]

    def __init__(self, converter: BatchConverter, keys: Sequence[str] = ()) -> None:
        self.converter = converter
        self.keys = list(keys)
        self.columns = list(dict.fromkeys([*converter.sparse_columns, *converter.numeric_columns, *keys]))
        self.types: dict[str, pa.DataType] = {}  # of each column, in every file

    def slow_tables(self) -> list[str]:
        """Tables that pool by mean although each of their columns holds single values, whose mean is their sum."""
        features = self.converter.features
        bags = {feature.table_name for feature in features.sparse if is_list(self.types[feature.column_name])}
        return [table.name for table in features.tables if table.pooling == "mean" and table.name not in bags]

    @property
    def rows(self) -> int:
        """Number of rows in all row groups."""
        return sum(group.rows for group in self.row_groups)

    @abstractmethod
    def stream(self, group: RowGroup, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Reads a row group a few thousand rows at a time, in order.

        Raises:
            ValueError: If it cannot be read; the text names the file.
        """

    def id_bounds(self, group: RowGroup) -> dict[str, tuple[int, int]]:
        """Least and greatest id of columns in a row group, where they are known without reading it."""
        return {}

    def sample(self, columns: Sequence[str], rows: int) -> pa.Table:
        """About ``rows`` rows of some columns, from row groups spread evenly over the split."""
        wanted = max(1, min(len(self.row_groups), rows * len(self.row_groups) // self.rows))
        chosen = [self.row_groups[i * len(self.row_groups) // wanted] for i in range(wanted)]
        parts = []
        for group in chosen:
            left = -(-rows // wanted)
            for part in self.stream(group, columns):
                parts.append(part.slice(0, left))
                left -= parts[-1].num_rows
                if not left:
                    break
        return joined(parts)

    def _check_schemas(self, schemas: dict[str, pa.Schema]) -> None:
        for where, schema in schemas.items():
            self._check_schema(where, schema)
        for column in self.columns:
            self.types[column] = unified(
                column, {where: schema.field(column).type for where, schema in schemas.items()}
            )

    def _select(self, rows: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
        """Some columns, each in the type that it has in every file."""
        found = [rows.column(name) for name in columns]
        if not found:
            return rows.select([])
        arrays = [
            array if array.type == self.types.get(name, array.type) else array.cast(self.types[name])
            for name, array in zip(columns, found, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def _check_schema(self, where: str, schema: pa.Schema) -> None:
        require_columns(where, schema, self.columns)
        for column in [*self.converter.sparse_columns, *self.converter.numeric_columns]:
            if wrong := self.converter.check_type(column, schema.field(column).type):
                raise ValueError(f"{where}: column '{column}' {wrong}")


def require_columns(where: str, schema: pa.Schema, columns: Iterable[str]) -> None:
    """Checks that a file has the columns that are read.

    Raises:
        ValueError: If one is missing; the text names the file, the column and what may have been meant.
    """
    for column in columns:
        if column not in schema.names:
            hint = did_you_mean(column, schema.names)
            raise ValueError(f"{where}: column '{column}' is missing. Found {schema.names}{hint}")


def joined(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Rows of several parts, of one schema, as one.

    Raises:
        ValueError: If a column is too large to be one.
    """
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.num_rows for part in parts)
    # a column may be nullable in one file and not in another
    table = pa.concat_tables([pa.Table.from_batches([part]) for part in parts], promote_options="default")
    found = table.combine_chunks().to_batches()
    if not found:
        return parts[0].slice(0, 0)
    if len(found) > 1:  # Arrow splits what the offsets of a list cannot count
        raise ValueError(
            f"{rows} rows are too many to shuffle as one block: a column holds more than 2**31 items. Set "
            f"data.shuffle_rows to less."
        )
    return found[0]
