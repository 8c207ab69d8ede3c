"""Rows that are in memory already, and CSV files, which are read into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from torchrec_mtl.data.convert import BatchConverter
from torchrec_mtl.data.files import explained, find_files, open_file
from torchrec_mtl.data.source import ROWS_AT_ONCE, RowGroup, Source

SEPARATOR = "|"


class TableSource(Source):
    """A pandas or Polars frame, an Arrow table or anything else that speaks Arrow's C stream, as a split.

    Args:
        table: The rows. Lists of ids are list columns, as in Parquet.
        converter: Says which columns are read, and as what.
        keys: Columns carried along as they are.
        name: What errors call it.

    Raises:
        TypeError: If ``table`` is no frame.
        ValueError: If a column is missing or has the wrong type, or there is no row.

    Example::

        source = TableSource(pandas.DataFrame({"shop": [3, 5], "click": [1, 0]}), converter)
    """

    def __init__(
        self, table: Any, converter: BatchConverter, keys: Sequence[str] = (), name: str = "the data frame"
    ) -> None:
        super().__init__(converter, keys)
        if not isinstance(table, pa.Table):
            if not hasattr(table, "__arrow_c_stream__"):
                raise TypeError(f"Rows must be a pandas, Polars or Arrow frame, but found {type(table).__name__}.")
            table = pa.table(table)
        self._check_schemas({name: table.schema})
        if not table.num_rows:
            raise ValueError(f"No rows in {name}.")
        self.files = [name]
        self.table = table.select(self.columns)
        starts = range(0, table.num_rows, ROWS_AT_ONCE)
        self.row_groups = [RowGroup(name, i, min(ROWS_AT_ONCE, table.num_rows - s)) for i, s in enumerate(starts)]

    def stream(self, group: RowGroup, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Gives the rows of a group, without a copy where they lie together."""
        names = list(self.columns if columns is None else columns)
        for part in self.table.slice(group.index * ROWS_AT_ONCE, group.rows).to_batches():
            yield self._select(part, names)


def read_csv(paths: str | Sequence[str], converter: BatchConverter, keys: Sequence[str] = ()) -> TableSource:
    """CSV files with a header line, read into memory: a convenience, where Parquet is read as a stream.

    A list of ids is written ``3|7|9``, in columns of ids alone. An empty field is null.

    Args:
        paths: Files, directories (all ``*.csv`` below) or globs.
        converter: Says which columns are read, and as what.
        keys: Columns carried along as they are.

    Raises:
        ValueError: If nothing is found, a file cannot be read, or its columns are not what the job reads.
    """
    files = find_files(paths, (".csv",))
    text = dict.fromkeys(converter.sparse_columns, pa.string())  # ids of all files get their type together, below
    options = pa.csv.ConvertOptions(strings_can_be_null=True, column_types=text)
    tables = []
    for path in files:
        with explained(f"{path} as CSV"):
            tables.append(pa.csv.read_csv(open_file(path), convert_options=options))
    with explained(f"{files} as one table: their columns differ"):
        table = pa.concat_tables(tables, promote_options="permissive")
    for column in converter.sparse_columns:
        if column in table.schema.names and pa.types.is_string(table.schema.field(column).type):
            table = table.set_column(table.schema.get_field_index(column), column, _ids(table[column]))
    return TableSource(table, converter, keys, ", ".join(files))


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """``"3|7|9"`` to ``[3, 7, 9]`` where some item has a separator; numbers if every item is one, else strings."""
    lists = any(pc.match_substring(chunk, SEPARATOR).true_count for chunk in column.chunks)
    values = pc.split_pattern(column, SEPARATOR) if lists else column
    try:
        return values.cast(pa.list_(pa.int64()) if lists else pa.int64())
    except pa.ArrowInvalid:
        return values
