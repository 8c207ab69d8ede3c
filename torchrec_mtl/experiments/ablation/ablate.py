"""``torchrec-mtl ablate``: every variant on every source under every seed, a file a finished run."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from torchrec_mtl.experiments.ablation.report import Run, summarize, write_report
from torchrec_mtl.experiments.ablation.run import Figures, run
from torchrec_mtl.experiments.ablation.sources import Journey, Simulated, Source
from torchrec_mtl.experiments.ablation.variants import grid
from torchrec_mtl.json_file import write_whole

JOURNEY = Path("data/complete_journey")


@dataclass(frozen=True)
class Plan:
    """How much the ablation measures.

    Args:
        rows: Training rows of each run.
        test_rows: Test rows of each run, and as many validation rows, which pick the epoch.
        epochs: Passes over the training rows at most; training stops when one brings nothing.
        seeds: Number of seeds; each draws rows and parameters anew, the same rows for every variant.
        biases: Strengths of the simulator's selection bias: see ``torchrec-mtl simulate --help``.
        journey: Directory of the prepared Complete Journey, or null to leave it out.

    Raises:
        ValueError: If a number is below 1, there is nothing to measure on, or the directory holds no prepared rows.
    """

    rows: int = 200_000
    test_rows: int = 100_000
    epochs: int = 5
    seeds: int = 5
    biases: Sequence[float] = (0.5, 2.0)
    journey: Path | None = JOURNEY

    def __post_init__(self) -> None:
        for name in ("rows", "test_rows", "epochs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"ablate: {name} must be at least 1, but found {getattr(self, name)}.")
        if self.journey is not None and not (self.journey / "manifest.json").exists():
            raise ValueError(
                f"ablate: '{self.journey}' holds no prepared Complete Journey. Make it by "
                f"python -m examples.complete_journey.prepare --output {self.journey}, or leave it out: --journey null."
            )
        if not self.sources:
            raise ValueError("ablate: there is nothing to measure on. Give a bias, or a directory of Complete Journey.")

    def quick(self) -> Plan:
        """The same with a few rows and seeds: it shows that everything runs, and measures nothing."""
        return replace(self, rows=16_384, test_rows=4_096, epochs=1, seeds=2)

    @property
    def sources(self) -> list[Source]:
        """The data sets, in the order of the report."""
        found: list[Source] = [Simulated(self.rows, self.test_rows, bias) for bias in dict.fromkeys(self.biases)]
        return found if self.journey is None else [*found, Journey(self.rows, self.test_rows, self.journey)]

    @property
    def size(self) -> dict[str, int]:
        """What runs must have in common to stand in one table."""
        return {"rows": self.rows, "test_rows": self.test_rows, "epochs": self.epochs}


def ablate(
    plan: Plan, output: Path = Path("runs/entire_space_ablation"), workers: int = 2, quick: bool = False
) -> list[Run]:
    """Measures the grid and writes ``report.md``, ``report.json``, ``report.csv`` and a picture a source.

    Runs whose file is in ``output`` already are not repeated: the same command goes on where it was stopped.

    Args:
        plan: How much to measure.
        output: Where runs and reports go.
        workers: Processes, one thread each.
        quick: A few rows, one epoch and two seeds instead of the plan's, to see that everything runs.

    Returns:
        All runs.

    Raises:
        ValueError: If ``output`` holds runs of another size, or ``workers`` is not positive.
    """
    if workers < 1:
        raise ValueError(f"ablate: workers must be at least 1, but found {workers}.")
    plan = plan.quick() if quick else plan
    _check_size(plan, output)
    runs = [Run(source, variant, seed) for source in plan.sources for seed in range(plan.seeds) for variant in grid()]
    waiting = [each for each in runs if not _path(output, each).exists()]
    console = Console()
    shown = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("runs", total=len(runs), completed=len(runs) - len(waiting))
        for each, figures in _measured(waiting, plan.epochs, workers):
            write_whole(_path(output, each), figures)
            progress.advance(task)
    finished = [each.with_figures(json.loads(_path(output, each).read_text())) for each in runs]
    write_report(summarize(finished), plan.size, output, console)
    return finished


def _check_size(plan: Plan, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    path = output / "size.json"
    if path.exists() and (found := json.loads(path.read_text())) != plan.size:
        raise ValueError(
            f"'{output}' holds runs of another size: {found} instead of {plan.size}. Give another --output."
        )
    path.write_text(json.dumps(plan.size) + "\n")


def _path(output: Path, each: Run) -> Path:
    return output / each.source.name / each.variant.name / f"seed_{each.seed}.json"


def _measured(waiting: Sequence[Run], epochs: int, workers: int) -> Iterator[tuple[Run, Figures]]:
    """Runs as they finish, in processes that share no threads with each other."""
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with ProcessPoolExecutor(workers, context, initializer=_start) as pool:
        futures: dict[Future[Figures], Run] = {
            pool.submit(run, each.source, each.variant, each.seed, epochs): each for each in waiting
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error or Ctrl-C: what is finished is on disk


def _start() -> None:
    """What a process does first."""
    torch.set_num_threads(1)
    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # it warns of a name that torchrec uses
