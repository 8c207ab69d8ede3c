"""Parquet files to batches, dealt out to ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from glob import glob
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.data.columns import is_bag, is_numeric
from torchrec_mtl.data.convert import BatchConverter


@dataclass(frozen=True)
class RowGroup:
    """One row group: the unit that is dealt out and shuffled."""

    path: str
    index: int
    rows: int


@dataclass(frozen=True)
class Rank:
    """This process's place among all."""

    index: int = 0
    world_size: int = 1


class ParquetSource:
    """A split: Parquet files, checked against what the job reads.

    Args:
        paths: Files, directories (all ``*.parquet`` below) or globs.
        converter: Says which columns are read, and as what.
        keys: Columns carried along as they are, for predictions and groups.

    Raises:
        ValueError: If nothing is found, a file cannot be read, a column is missing or has the wrong type, or there is
            no row at all. The text names the file and the column.
    """

    def __init__(self, paths: str | Sequence[str], converter: BatchConverter, keys: Sequence[str] = ()) -> None:
        self.converter = converter
        self.keys = list(keys)
        self.columns = list(dict.fromkeys([*converter.sparse_columns, *converter.numeric_columns, *keys]))
        self.files = _find([paths] if isinstance(paths, str) else paths)
        self.row_groups: list[RowGroup] = []
        for path in self.files:
            metadata = _open(path).metadata
            self._check_schema(path, metadata.schema.to_arrow_schema())
            groups = (RowGroup(path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups))
            self.row_groups += [group for group in groups if group.rows]
        if not self.row_groups:
            raise ValueError(f"No rows in {self.files}: every file is empty.")

    @property
    def rows(self) -> int:
        """Number of rows in all files."""
        return sum(group.rows for group in self.row_groups)

    def read(self, groups: Sequence[RowGroup], columns: Sequence[str] | None = None) -> pa.Table:
        """Reads row groups, in order.

        Raises:
            ValueError: If a file is corrupt; the text names it.
        """
        parts = []
        for group in groups:
            try:
                part = _open(group.path).read_row_group(group.index, columns=list(columns or self.columns))
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"Cannot read row group {group.index} of {group.path}: {error}") from error
            parts.append(part.select(list(columns or self.columns)))
        return pa.concat_tables(parts, promote_options="permissive")

    def _check_schema(self, path: str, schema: pa.Schema) -> None:
        for column in self.columns:
            if column not in schema.names:
                close = get_close_matches(column, schema.names, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else "."
                raise ValueError(f"{path}: column '{column}' is missing. Found {schema.names}{hint}")
        for names, fits, expected in (
            (self.converter.sparse_columns, is_bag, "integers or lists of integers"),
            (self.converter.numeric_columns, is_numeric, "numbers"),
        ):
            for column in names:
                kind = schema.field(column).type
                if not fits(kind):
                    raise ValueError(f"{path}: column '{column}' must hold {expected}, but has type {kind}.")


class ParquetReader:
    """Reads this rank's share of a split as full batches: ``(batch, keys)``.

    Row groups are dealt to ranks in turn, so ranks read disjoint rows and together every row once. With a seed, the
    row groups are shuffled before they are dealt, and rows are shuffled within blocks of row groups of at least
    ``shuffle_rows`` rows. The order depends on (seed, epoch, rank, world size) alone.

    Args:
        source: The split.
        batch_size: Rows a batch; the last one is padded to it.
        rank: This process's place.
        seed: Shuffles; ``None`` reads in file order.
        shuffle_rows: Size of the blocks within which rows are shuffled; bounds the memory.

    Raises:
        ValueError: If ``batch_size`` or ``shuffle_rows`` is not positive.
    """

    def __init__(
        self,
        source: ParquetSource,
        batch_size: int,
        rank: Rank = Rank(),
        seed: int | None = None,
        shuffle_rows: int = 262_144,
    ) -> None:
        if batch_size < 1 or shuffle_rows < 1:
            raise ValueError(
                f"batch_size and shuffle_rows must be at least 1, but found {batch_size} and {shuffle_rows}."
            )
        self.source = source
        self.batch_size = batch_size
        self.rank = rank
        self.seed = seed
        self.shuffle_rows = shuffle_rows

    @property
    def order(self) -> str:
        """A fingerprint of what the order of the rows depends on, besides epoch, rank and world size."""
        groups = [(Path(group.path).name, group.index, group.rows) for group in self.source.row_groups]
        return sha256(repr((self.seed, self.shuffle_rows, groups)).encode()).hexdigest()[:16]

    def row_groups(self, epoch: int = 0) -> list[RowGroup]:
        """This rank's row groups in the order in which an epoch reads them."""
        groups = self.source.row_groups
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(groups))
            groups = [groups[i] for i in order]
        return groups[self.rank.index :: self.rank.world_size]

    def num_batches(self, epoch: int = 0) -> int:
        """Number of batches of this rank in an epoch."""
        return -(-sum(group.rows for group in self.row_groups(epoch)) // self.batch_size)

    def padding(self) -> MultiTaskBatch:
        """A batch of padding alone, as large as any other."""
        return self.source.converter.padding(self.batch_size)

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[MultiTaskBatch, pa.RecordBatch]]:
        """Batches of an epoch from the ``skip``-th on; what lies before is not read.

        Each comes with its rows' key columns; the batch is padded, the keys are not.
        """
        rest: pa.Table | None = None
        for block in self._blocks(epoch, skip * self.batch_size):
            table = block if rest is None else pa.concat_tables([rest, block], promote_options="permissive")
            table = table.combine_chunks()
            whole = table.num_rows - table.num_rows % self.batch_size
            for start in range(0, whole, self.batch_size):
                yield self._batch(table.slice(start, self.batch_size))
            rest = table.slice(whole)
        if rest is not None and rest.num_rows:
            yield self._batch(rest)

    def _batch(self, table: pa.Table) -> tuple[MultiTaskBatch, pa.RecordBatch]:
        (rows,) = table.combine_chunks().to_batches()
        return self.source.converter(rows, self.batch_size), rows.select(self.source.keys)

    def _blocks(self, epoch: int, skip_rows: int) -> Iterator[pa.Table]:
        for number, groups in enumerate(self._grouped(epoch)):
            rows = sum(group.rows for group in groups)
            if skip_rows >= rows:
                skip_rows -= rows
                continue
            table = self.source.read(groups)
            if self.seed is not None:
                seed = [self.seed, epoch, self.rank.index, number]
                table = table.take(np.random.default_rng(seed).permutation(rows))
            yield table.slice(skip_rows)
            skip_rows = 0

    def _grouped(self, epoch: int) -> Iterator[list[RowGroup]]:
        block: list[RowGroup] = []
        for group in self.row_groups(epoch):
            block.append(group)
            if self.seed is None or sum(member.rows for member in block) >= self.shuffle_rows:
                yield block
                block = []
        if block:
            yield block


def _find(paths: Sequence[str]) -> list[str]:
    found = []
    for path in paths:
        if Path(path).is_file():
            matches = [path]
        elif Path(path).is_dir():
            matches = sorted(map(str, Path(path).rglob("*.parquet")))
        else:
            matches = sorted(glob(path))  # noqa: PTH207  # an absolute glob too
        if not matches:
            raise ValueError(f"No Parquet file at '{path}': give a file, a directory of *.parquet files or a glob.")
        found += matches
    return list(dict.fromkeys(str(Path(match)) for match in found))  # a file named twice is read once


def _open(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        size = Path(path).stat().st_size if Path(path).exists() else 0
        what = "the file is empty" if size == 0 else str(error)
        raise ValueError(f"Cannot read {path} as Parquet: {what}") from error
