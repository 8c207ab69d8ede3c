"""The benchmark in one command: ``python -m examples.benchmark --help``."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.benchmark.curves import FACTORS, measure_curves
from examples.benchmark.goals import goal_lines
from examples.benchmark.machine import describe
from examples.benchmark.measure import Effort
from examples.benchmark.memory import measure_import, measure_memory
from examples.benchmark.memory_stage import ROW
from examples.benchmark.plots import draw_curves, draw_throughput
from examples.benchmark.report import GOAL_HEADER, markdown_table, to_markdown
from examples.benchmark.streaming import measure_streaming
from examples.benchmark.throughput import OURS, measure_throughput, pairs, quick_pairs

SECTIONS = ("throughput", "curves", "memory")
QUICK_POINTS = 3  # of each curve
GIB_ROWS = 2**30 // (4 * ROW)  # rows of the large table in a GiB


def measure(options: argparse.Namespace, section: str, advance: Callable[[str], None]) -> Any:
    """Measures one section."""
    quick = options.quick
    rounds = options.rounds or (2 if quick else 5)
    effort = Effort(rounds, options.batches or (3 if quick else 32), 0.5 if quick else 3.0)
    if section == "throughput":
        groups = 2 if quick else 16
        return {
            "pairs": measure_throughput(
                quick_pairs(options.dimension) if quick else pairs(), effort, options.output / "data", groups, advance
            )
        }
    if section == "curves":
        points = Effort(1, 2, 0.3) if quick else Effort(3, 16, 1.0)
        return measure_curves(OURS, points, advance, most=QUICK_POINTS if quick else None)
    rows = (GIB_ROWS // 4) if quick else 4 * GIB_ROWS
    table = measure_memory(rows, options.output / "checkpoint", advance)
    streaming = measure_streaming(2**28 if quick else 5 * 10**9, 2 if quick else 6, options.output / "data", advance)
    return {"table": table, "streaming": streaming, "import": measure_import(rounds, advance)}


def steps_of(section: str, quick: bool) -> int:
    """How many times a section says that it advances."""
    if section == "throughput":
        return len(quick_pairs() if quick else pairs())
    if section == "curves":
        return sum(len(values[: QUICK_POINTS if quick else None]) for _, values in FACTORS.values())
    return 5


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measures the chosen sections and writes ``results.json``, ``results.md`` and the pictures."""
    options.output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    results: dict[str, Any] = {"machine": describe(), "date": date, "quick": options.quick}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for section in options.only:
            bar = progress.add_task(section, total=steps_of(section, options.quick))
            done = iter(range(-1, 10**9))

            def advance(text: str, bar: Any = bar, section: str = section, done: Any = done) -> None:
                progress.update(bar, description=f"{section}: {text}", completed=max(0, next(done) + 1))

            results[section] = measure(options, section, advance)
            progress.update(bar, description=section, completed=steps_of(section, options.quick))
            results["minutes"] = (time.monotonic() - started) / 60
            write(results, options.output)  # after each section, so that a later failure loses nothing
    return results


def write(results: dict[str, Any], output: Path) -> None:
    """Writes figures, tables and pictures."""
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (output / "results.md").write_text(to_markdown(results))
    if "curves" in results:
        draw_curves(results["curves"], output)
    if "throughput" in results:
        draw_throughput(results["throughput"]["pairs"], output)


def sections(text: str) -> list[str]:
    """The sections that a comma-separated list names."""
    chosen = text.split(",")
    if unknown := [section for section in chosen if section not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"unknown sections {unknown}; use some of {','.join(SECTIONS)}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmark",
        description="Measures the project beside a hand-written TorchRec loop, plain PyTorch and, where they are "
        "installed, torch-rechub and deepctr-torch: samples a second, memory, growth. Leave the machine to it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", type=sections, default=list(SECTIONS), help="comma-separated: " + ",".join(SECTIONS))
    parser.add_argument("--rounds", type=int, help="measurements of each contender (5; quick: 2)")
    parser.add_argument("--batches", type=int, help="most batches of a measurement (32; quick: 3)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), help="results.json, results.md, pictures"
    )
    parser.add_argument("--quick", action="store_true", help="under three minutes, to see that everything works")
    parser.add_argument("--dimension", type=int, default=16, help="of the quick run")
    options = parser.parse_args(arguments)
    console = Console()
    results = run(options, console)
    if goals := goal_lines(results):
        console.print(Markdown(markdown_table(GOAL_HEADER, goals)))
    console.print(f"{results['minutes']:.1f} minutes. Figures: {options.output}/results.json, results.md and *.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
