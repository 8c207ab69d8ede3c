"""The job under several seeds, beside the baseline: ``python -m examples.complete_journey.seeds --help``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.complete_journey.__main__ import DATA, JOB, figures_of
from examples.complete_journey.prepare import prepare

BASELINE = Path("runs/baseline/metrics.json")


def collect(runs: list[dict[str, Any]], baseline: dict[str, Any] | None) -> Table:
    """A table of every task's figures on the test split, mean ± deviation over the runs."""
    table = Table(
        "task", "figure", "job", "gradient boosting", title=f"test split, {len(runs)} seeds, mean ± deviation"
    )
    for task, figures in runs[0]["tasks"].items():
        for name in figures:
            if name in ("rows", "rate", "mean"):
                continue
            opponent = (baseline or {}).get(task, {}).get("test", {}).get(name)
            values = np.array([run["tasks"][task][name] for run in runs])
            cells = [f"{values.mean():.4f} ± {values.std():.4f}"]
            cells += [f"{opponent['mean']:.4f} ± {opponent['std']:.4f}" if opponent else ""]
            table.add_row(task, name, *cells)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Trains the job once for each seed; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.complete_journey.seeds",
        description="Trains the job with several seeds and prints its figures on the test split, beside those that "
        f"examples.complete_journey.baseline has written to {BASELINE}. Runs that are there already are not repeated.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--job", type=Path, default=JOB, help="job file")
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"), help="where the runs go")
    options = parser.parse_args(arguments)
    console = Console()
    prepare(DATA, console=console)
    runs = []
    for seed in options.seeds:
        output = options.output / options.job.stem / f"seed_{seed}"
        runs.append(figures_of(options.ranks, output, [f"--training.seed={seed}"], console, options.job))
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else None
    console.print(collect(runs, baseline))
    return 0


if __name__ == "__main__":
    sys.exit(main())
