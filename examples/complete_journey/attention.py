"""What the purchase sequence brings: ``python -m examples.complete_journey.attention --help``."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.complete_journey.__main__ import DATA, JOB, figures_of
from examples.complete_journey.prepare import prepare
from torchrec_mtl.experiments.statistics import mean_and_error

WITHOUT = JOB.with_name("no_sequences.yaml")
VARIANTS: dict[str, tuple[Path, list[str]]] = {
    "none": (WITHOUT, []),
    "shared": (JOB, []),
    "per task": (JOB, ["--network.attention_per_task=[purchases]"]),
    "mean, shared": (JOB, ["--network.attention.purchases=torchrec_mtl.sequences.MeanPooling"]),
    "DUPN, shared": (JOB, ["--network.attention.purchases=torchrec_mtl.sequences.DUPN"]),
}
FIGURES = (("engage", "auc"), ("purchase", "auc"), ("purchase", "ne"), ("purchase_given_engage", "auc"))

Runs = Mapping[str, list[dict[str, Any]]]  # {variant: the metrics of each seed}


def differences(runs: Runs, task: str, figure: str) -> dict[str, tuple[float, float, float, float]]:
    """``{variant: mean, standard error, mean difference to "none" of the same seed, its standard error}``."""
    found = {}
    values = {name: np.array([run["tasks"][task][figure] for run in each]) for name, each in runs.items()}
    for name, each in values.items():
        found[name] = (*mean_and_error(each), *mean_and_error(each - values["none"]))
    return found


def collect(runs: Runs) -> Table:
    """A table of the test figures and of what each variant brings."""
    seeds = len(next(iter(runs.values())))
    table = Table(title=f"test split, {seeds} seeds, mean ± standard error; change: against none, seed by seed")
    for column in ("task", "figure", "attention", "value", "change"):
        table.add_column(column)
    for task, figure in FIGURES:
        for name, (mean, error, change, change_error) in differences(runs, task, figure).items():
            brought = "" if name == "none" else f"{change:+.4f} ± {change_error:.4f}"
            table.add_row(task, figure, name, f"{mean:.4f} ± {error:.4f}", brought)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Trains every variant with every seed; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.complete_journey.attention",
        description="Trains the job without its purchase sequence, with one attention block for all tasks and with one "
        "for each task, several seeds each, on a part of the training files, and prints what the sequence brings on "
        "the test split. Runs that are there already are not repeated.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["none", "shared", "per task"])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--files", type=int, default=2, help="training files, of eight")
    parser.add_argument("--epochs", type=int, default=2, help="passes over them")
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--output", type=Path, default=Path("runs/attention"), help="where the runs go")
    options = parser.parse_args(arguments)
    console = Console()
    prepare(DATA, console=console)
    files = [str(DATA / "train" / f"part-{i:05d}.parquet") for i in range(options.files)]
    common = [f"--data.train={json.dumps(files)}", "--data.validation=[]", f"--training.epochs={options.epochs}"]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in dict.fromkeys(["none", *options.variants])}
    for seed in range(options.seeds):
        for name, found in runs.items():
            job, extra = VARIANTS[name]
            output = options.output / name.replace(", ", "_").replace(" ", "_") / f"seed_{seed}"
            extra = [*common, *extra, f"--training.seed={seed}"]
            found.append(figures_of(options.ranks, output, extra, console, job))
    console.print(collect(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
