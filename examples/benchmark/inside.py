"""What the inside view costs: ``python -m examples.benchmark.inside --help``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress

from examples.benchmark.measure import spread
from examples.benchmark.ours import Ours
from examples.benchmark.report import markdown_table, show_table
from examples.benchmark.workload import Workload
from torchrec_mtl.cli import quiet
from torchrec_mtl.inside import InsideView
from torchrec_mtl.inside.plot import draw_inside
from torchrec_mtl.objective import MultiTaskObjective

TABLES = 1_000  # rows of each table: lookups of small tables are the fastest, so that the view's share is the largest
HEADER = ("experts", "tasks", "batch", "steps", "without, ms", "with, ms", "with / without (spread)", "figures, s")


class Size(NamedTuple):
    """What varies."""

    experts: int
    tasks: int
    batch: int


class Watched(Ours):
    """The project's pipeline, trained or evaluated, with its trunk watched or not."""

    def __init__(self, size: Size, stride: int) -> None:
        workload = Workload(batch_size=size.batch, experts=size.experts, tasks=size.tasks)
        super().__init__(replace(workload, ids=(TABLES,) * 26, bags=(TABLES,) * 4))
        objective = self.pipeline._model.module
        assert isinstance(objective, MultiTaskObjective)
        self.view = InsideView(objective.model.trunk, objective.model.heads.tower_names, stride)

    def evaluate(self, batches: int) -> float:
        """Runs batches through the pipeline without training."""
        self.pipeline._model.eval()
        with torch.no_grad():
            loss = self.train(batches)
        self.pipeline._model.train()
        return loss

    def seconds(self, run: Callable[[int], float], steps: int, watched: bool) -> float:
        """Seconds a step."""
        with self.view.watch() if watched else nullcontext():
            started = time.perf_counter()
            run(steps)
            return (time.perf_counter() - started) / steps


def compare(network: Watched, run: Callable[[int], float], rounds: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds a step without and with the view, measured in turns (A B, B A, …)."""
    times: tuple[list[float], list[float]] = ([], [])
    for watched in (False, True):
        network.seconds(run, 2, watched)  # the first fills caches
    for number in range(rounds):
        for watched in (False, True) if number % 2 == 0 else (True, False):
            times[watched].append(network.seconds(run, steps, watched))
    return times


def drawn(view: InsideView) -> float:
    """Seconds for the figures and the picture at the end of an evaluation."""
    started = time.perf_counter()
    with TemporaryDirectory() as directory:
        draw_inside(view.figures(), Path(directory) / "inside.png")
    return time.perf_counter() - started


def measure(size: Size, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Lines of the table for one size: training, where every step is watched, and evaluation."""
    network = Watched(size, options.stride)
    rows: list[tuple[str, ...]] = []
    for name, run in (("training", network.train), ("evaluation", network.evaluate)):
        without, watched = compare(network, run, options.rounds, options.steps)
        ratio = spread([one / other for one, other in zip(watched, without, strict=True)])
        rows.append(
            (
                str(size.experts),
                str(size.tasks),
                f"{size.batch:,}",
                name,
                f"{1e3 * spread(without)['median']:.2f}",
                f"{1e3 * spread(watched)['median']:.2f}",
                f"{ratio['median']:.3f} ({ratio['min']:.3f}–{ratio['max']:.3f})",
                f"{drawn(network.view):.2f}",
            )
        )
    return rows


def sizes_of(options: argparse.Namespace) -> list[Size]:
    """The grid: experts with tasks, pair by pair, at each batch size."""
    pairs = list(zip(options.experts, options.tasks, strict=True))
    return [Size(experts, tasks, batch) for experts, tasks in pairs for batch in options.batch]


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmark.inside",
        description="Steps of the MMoE workload with and without the inside view, in turns in one process. Every step "
        "is watched, which a job does in evaluations only. Leave the machine to it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--experts", nargs="+", type=int, default=[4, 8, 64], help="numbers of experts")
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 8, 16], help="numbers of tasks, one each")
    parser.add_argument("--batch", nargs="+", type=int, default=[512, 4096], help="rows of a batch")
    parser.add_argument("--stride", type=int, default=8, help="experts are compared on one row in so many")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--rounds", type=int, default=10, help="pairs")
    parser.add_argument("--steps", type=int, default=2, help="of each side in a round")
    parser.add_argument("--output", type=Path, help="file for the table, as Markdown")
    options = parser.parse_args(arguments)
    if len(options.experts) != len(options.tasks):
        parser.error(f"--experts and --tasks go together, but found {options.experts} and {options.tasks}")
    quiet()
    torch.set_num_threads(options.threads)
    console = Console()
    rows: list[tuple[str, ...]] = []
    with Progress(console=console) as progress:
        for size in progress.track(sizes_of(options)):
            rows += measure(size, options)
    show_table(markdown_table(HEADER, rows), options.output, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
