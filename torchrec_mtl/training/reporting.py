"""What a person sees: a progress bar, curves, a table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from torchrec_mtl.data.check import LabelReport
from torchrec_mtl.training.evaluation import Metrics


class Reporter:
    """Prints on rank 0 and is silent elsewhere.

    Args:
        active: Whether this is rank 0.
        directory: Where TensorBoard's files go, in ``tensorboard/``; ``None`` for none.
        step: First step of this run; older curves of a run that is resumed end there.
    """

    def __init__(self, active: bool, directory: Path | None = None, step: int = 0) -> None:
        self.active = active
        self.step = step  # the last that is trained
        self.console = Console(quiet=not active)
        self.writer = None
        if active and directory is not None:
            self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1 if step else None)

    def bar(self, title: str, total: int, done: int = 0) -> Bar:
        """A progress bar; use it in a ``with`` statement."""
        return Bar(self.console, title, total, done)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds points to TensorBoard's curves."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Adds a PNG to TensorBoard's images."""
        if self.writer is not None:
            from matplotlib.image import imread  # its import takes a second

            self.writer.add_image(name, imread(path), step, dataformats="HWC")

    def metrics(self, split: str, found: Metrics, step: int) -> None:
        """Prints a split's metrics and adds them to the curves."""
        self.scalars(
            {f"{split}/{task}/{name}": value for task, values in found.items() for name, value in values.items()}, step
        )
        self.table(f"{split}, step {step:,}", found)

    def table(self, title: str, found: Metrics) -> None:
        """Prints metrics, a column each."""
        self.console.print(metrics_table(title, found))

    def labels(self, split: str, found: LabelReport) -> None:
        """Prints what a split holds for each task."""
        table = Table(
            "task", "rows in its label space", "label mean, unweighted", title=f"{split}: {found.rows:,} rows"
        )
        for task, rows in found.in_space.items():
            table.add_row(task, f"{rows:,}", f"{found.label_sum[task] / rows:.5g}")
        self.console.print(table)
        if found.broken:
            text = f"{found.broken:,} rows of {split} break the funnel and were {found.treatment}."
            self.console.print(f"[yellow]{text}[/yellow]")

    def say(self, text: str | None) -> None:
        """Prints a line, if there is something to say."""
        if text is not None:
            self.console.print(text, markup=False)

    def close(self) -> None:
        """Writes what TensorBoard still holds."""
        if self.writer is not None:
            self.writer.close()


class Bar:
    """A progress bar over samples with loss and samples a second; where there is no terminal, a line now and then."""

    def __init__(self, console: Console, title: str, total: int, done: int) -> None:
        self.console, self.title, self.total, self.done = console, title, total, min(done, total)
        self.note = self.loss = ""
        self.start = self.last = time.monotonic()
        self.first = done
        self.progress = Progress(
            TextColumn(title),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=console.quiet or not console.is_terminal,
        )
        self.line = self.progress.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
        if not error[0]:
            self.done = self.total  # other ranks' rows were counted as this rank's: exact only at the end
            self._print()

    @property
    def samples_per_second(self) -> float:
        """Mean speed since the bar was made."""
        return (self.done - self.first) / max(time.monotonic() - self.start, 1e-9)

    def advance(self, rows: int, loss: float | None = None) -> None:
        """Moves on by a number of samples."""
        self.done = min(self.done + rows, self.total)
        self.loss = self.loss if loss is None else f"loss {loss:.4f}  "
        self.note = f"{self.loss}{self.samples_per_second:,.0f} samples/s"
        self.progress.update(self.line, completed=self.done, note=self.note)
        if time.monotonic() - self.last > 15:
            self._print()

    def _print(self) -> None:
        self.last = time.monotonic()
        if not self.console.is_terminal and not self.console.quiet:
            self.console.print(f"{self.title}: {self.done:,}/{self.total:,}  {self.note}")


def metrics_table(title: str, found: Metrics) -> Table:
    """A split's metrics, a column a task."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    table = Table("", *found, title=title, title_justify="left")
    for name in names:
        table.add_row(name, *(_figure(name, values.get(name)) for values in found.values()))
    return table


def write_metrics(path: Path, found: Mapping[str, Any]) -> None:
    """Writes figures as JSON; what is not a number becomes null, as JSON has no NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(found), indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name == "rows" else f"{value:.4f}"
