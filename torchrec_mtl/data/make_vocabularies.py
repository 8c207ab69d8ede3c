"""``torchrec-mtl vocab``: from Parquet files to vocabulary files, in one pass over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from torchrec_mtl.data.count_values import ValueCounts, check_kind, check_limits, keep
from torchrec_mtl.data.files import explained, find_files
from torchrec_mtl.data.parquet import open_parquet
from torchrec_mtl.data.source import ROWS_AT_ONCE, require_columns
from torchrec_mtl.data.vocabulary import write_vocabulary


@dataclass(frozen=True)
class VocabularySummary:
    """What a vocabulary covers.

    Args:
        distinct: Different values in the rows.
        kept: Values that have a row of their own.
        share: Share of all occurrences that these make up; NaN without any.
    """

    distinct: int
    kept: int
    share: float

    @property
    def rows(self) -> int:
        """Rows that its table needs: one more, for unknown values."""
        return self.kept + 1


def make_vocabularies(
    rows: Sequence[str],
    columns: dict[str, list[str]],
    output: Path,
    min_count: int = 1,
    max_size: int | None = None,
    overwrite: bool = False,
) -> dict[str, VocabularySummary]:
    """Writes ``<output>/<name>.parquet`` for every vocabulary and prints what each covers.

    Args:
        rows: Parquet files, directories or globs.
        columns: ``{vocabulary: columns that share it}``.
        output: Directory.
        min_count: Values that occur less often are left out.
        max_size: At most so many values are kept, the most frequent.
        overwrite: Whether existing files may be replaced.

    Raises:
        ValueError: If a vocabulary exists already, has no column or no value, a column is missing or does not fit, a
            limit is not positive, or a file cannot be read. Then nothing is written.
    """
    check_limits(min_count, max_size)
    _check_output(columns, output, overwrite)
    files = find_files(rows)
    counts = _checked(files, columns)
    for part in _parts(files, sorted({column for names in columns.values() for column in names})):
        for name, names in columns.items():
            for column in names:
                counts[name].add(part.column(column))
    totals = {name: counted.total() for name, counted in counts.items()}
    kept = {name: _kept(name, total, min_count, max_size) for name, total in totals.items()}
    for name, values in kept.items():
        write_vocabulary(output / f"{name}.parquet", values, columns[name], min_count, max_size)
    found = {name: _summary(totals[name], kept[name]) for name in columns}
    _print(found, output)
    return found


def _check_output(columns: dict[str, list[str]], output: Path, overwrite: bool) -> None:
    if not columns or not all(columns.values()):
        raise ValueError(f"Each vocabulary needs a column, for instance {{shop: [shop]}}, but found {columns}.")
    paths = [output / f"{name}.parquet" for name in columns]
    if (existing := [str(path) for path in paths if path.exists()]) and not overwrite:
        raise ValueError(
            f"{existing} exist already, and models trained with them need them as they are. Give another directory, or "
            f"--overwrite true."
        )


def _checked(files: Sequence[str], columns: dict[str, list[str]]) -> dict[str, ValueCounts]:
    kinds: dict[str, pa.DataType] = {}
    for path in files:
        with explained(path), open_parquet(path) as file:
            schema = file.schema_arrow
        for name, names in columns.items():
            require_columns(path, schema, names)
            for column in names:
                try:
                    kinds[name] = check_kind(schema.field(column), kinds.get(name))
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from None
    return {name: ValueCounts(kind) for name, kind in kinds.items()}


def _parts(files: Sequence[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    console = Console()
    shown = (TextColumn("row groups"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("row groups", total=None)
        total = 0
        for path in files:
            with explained(path), open_parquet(path) as file:
                total += file.num_row_groups
                progress.update(task, total=total)
                for index in range(file.num_row_groups):
                    yield from file.iter_batches(ROWS_AT_ONCE, row_groups=[index], columns=columns)
                    progress.advance(task)


def _kept(name: str, total: pa.Table, min_count: int, max_size: int | None) -> pa.Table:
    values = keep(total, min_count, max_size)
    if not values.num_rows:
        most = pc.max(total["count"]).as_py() or 0
        raise ValueError(
            f"Vocabulary '{name}': no value occurs {min_count} times (the most frequent one occurs {most} times). Set "
            f"a smaller min_count."
        )
    return values


def _summary(total: pa.Table, kept: pa.Table) -> VocabularySummary:
    share = pc.sum(kept["count"]).as_py() / pc.sum(total["count"]).as_py()
    return VocabularySummary(total.num_rows, kept.num_rows, share)


def _print(found: dict[str, VocabularySummary], output: Path) -> None:
    table = Table("vocabulary", "different values", "kept", "share of all occurrences", "rows: of its table")
    for name, each in found.items():
        table.add_row(
            str(output / f"{name}.parquet"), f"{each.distinct:,}", f"{each.kept:,}", f"{each.share:.2%}", f"{each.rows}"
        )
    Console().print(table)
