"""Parquet files as a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_mtl.data.convert import BatchConverter
from torchrec_mtl.data.files import explained, find_files, is_address, open_file
from torchrec_mtl.data.source import ROWS_AT_ONCE, RowGroup, Source


class ParquetSource(Source):
    """Parquet files, every one checked against what the job reads before anything is trained.

    Only the columns that the job reads are decoded, and a row group a few thousand rows at a time, so a file of one
    huge row group takes no more memory than one of small ones. Page checksums are verified where a file has them.

    Args:
        paths: Files, directories (all ``*.parquet`` below) or globs; local, or addresses such as ``s3://bucket/day=*``.
        converter: Says which columns are read, and as what.
        keys: Columns carried along as they are, for predictions and groups.

    Raises:
        ValueError: If nothing is found, a file cannot be read, a column is missing or has the wrong type, or there is
            no row at all. The text names the file and the column.
    """

    def __init__(self, paths: str | Sequence[str], converter: BatchConverter, keys: Sequence[str] = ()) -> None:
        super().__init__(converter, keys)
        self.files = find_files(paths)
        with ThreadPoolExecutor(8) as pool:  # footers of remote files take a round trip each
            self._footers = dict(zip(self.files, pool.map(_footer, self.files), strict=True))
        self._stamps = {path: _stamp(path) for path in self.files}
        self._check_schemas({path: footer.schema.to_arrow_schema() for path, footer in self._footers.items()})
        self.row_groups = []
        for path, footer in self._footers.items():
            groups = (RowGroup(path, i, footer.row_group(i).num_rows) for i in range(footer.num_row_groups))
            self.row_groups += [group for group in groups if group.rows]
        if not self.row_groups:
            raise ValueError(f"No rows in {self.files}: every file is empty.")

    def stream(self, group: RowGroup, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Reads a row group a few thousand rows at a time, in order.

        Raises:
            ValueError: If the file is corrupt or was changed meanwhile; the text names it.
        """
        names = list(self.columns if columns is None else columns)
        if _stamp(group.path) != self._stamps[group.path]:
            raise ValueError(
                f"{group.path} has changed since it was checked. Start again, and write new rows to new files."
            )
        rows = 0
        with open_parquet(group.path, self._footers[group.path]) as file, explained(str(group)):
            # on this thread: the reader's workers run beside training already, and Arrow's own threads would take its
            # cores from under it
            parts = file.iter_batches(ROWS_AT_ONCE, row_groups=[group.index], columns=names, use_threads=False)
            for part in parts:
                rows += part.num_rows
                yield self._select(part, names)
        if rows != group.rows:
            raise ValueError(f"Cannot read {group}: its footer promises {group.rows} rows, but it holds {rows}.")

    def id_bounds(self, group: RowGroup) -> dict[str, tuple[int, int]]:
        """Least and greatest id of integer columns, from the statistics in the footer."""
        names, bounds = self.converter.sparse_columns, {}
        statistics = self._footers[group.path].row_group(group.index)
        for column in map(statistics.column, range(statistics.num_columns)):
            path, found = column.path_in_schema, column.statistics
            name = path if path in names else path.split(".list.")[0]  # a list's items lie at <name>.list.<item>
            if name in names and found is not None and found.has_min_max and isinstance(found.min, int):
                bounds[name] = (found.min, found.max)
        return bounds


def open_parquet(path: str, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Opens a Parquet file, local or remote; a footer that is known is not read again.

    Columns are read a buffer at a time: else Arrow would hold the whole row group, which may be the whole file.

    Raises:
        ValueError: If it is not one, or cannot be reached; the text names it.
    """
    buffer = 2**23 if is_address(path) else 2**20  # a remote read costs a round trip
    try:
        return pq.ParquetFile(open_file(path), metadata=footer, buffer_size=buffer, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        empty = not is_address(path) and Path(path).exists() and Path(path).stat().st_size == 0
        what = "the file is empty" if empty else str(error)
        raise ValueError(f"Cannot read {path} as Parquet: {what}") from error


def _footer(path: str) -> pq.FileMetaData:
    with open_parquet(path) as file:
        return file.metadata


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of a local file; objects at addresses are taken as they were."""
    if is_address(path):
        return None
    try:
        found = Path(path).stat()
    except OSError as error:
        raise ValueError(f"Cannot read {path} as Parquet: {error}") from error
    return found.st_size, found.st_mtime_ns
