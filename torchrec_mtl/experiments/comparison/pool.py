"""Finishes runs side by side: those that are on disk are not repeated."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from torchrec_mtl.experiments.comparison.planned import Planned
from torchrec_mtl.experiments.comparison.run import Content, run
from torchrec_mtl.json_file import write_whole

Found = dict[str, Any]  # tasks: {task: {metric: value}}, seconds
Run = Callable[[Content, Path], Found]


class RunPool:
    """Processes that import torch once and then train run after run, with a bar of how many are finished.

    Args:
        output: Where the runs' figures go, a file each.
        workers: Number of processes.
        total: Number of all runs that will be asked for.
        console: Where progress is shown; where it is no terminal, a line a run.
    """

    def __init__(self, output: Path, workers: int, total: int, console: Console) -> None:
        shown = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(
            *shown, TextColumn("{task.description}"), console=console, disable=not console.is_terminal
        )
        self.task = self.progress.add_task("", total=total)
        self.output, self.workers, self.console = output, workers, console
        self.pool: ProcessPoolExecutor | None = None
        self.others = {*multiprocessing.active_children()}
        self.asked: list[Path] = []

    def __enter__(self) -> RunPool:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
        if interrupted := error[0] is KeyboardInterrupt:
            for worker in {*multiprocessing.active_children()} - self.others:
                worker.terminate()
        if self.pool is not None:
            self.pool.shutdown(wait=interrupted or not error[0], cancel_futures=True)  # what has finished is on disk
        if interrupted:
            kept, total = sum(path.exists() for path in self.asked), int(self.progress.tasks[self.task].total or 0)
            raise KeyboardInterrupt(
                f"Interrupted; {kept} of {total} runs are kept in {self.output}: the same command goes on from there."
            ) from None

    def finish(self, planned: Sequence[Planned]) -> list[Found]:
        """What each run found, in their order; runs what is not there yet."""
        paths = [each.path(self.output) for each in planned]
        waiting = {path: each for path, each in zip(paths, planned, strict=True) if not path.exists()}
        self.progress.advance(self.task, len(planned) - len(waiting))
        self.asked += paths
        for path, found in self._measured(waiting):
            each = waiting[path]
            text = f"{each.model.candidate}, {each.name.replace('_', ' ')}, {found['seconds']:.0f} s"
            self.progress.update(self.task, advance=1, description=text)
            if not self.console.is_terminal:
                self.console.print(text)
        return [json.loads(path.read_text()) for path in paths]

    def _measured(self, waiting: Mapping[Path, Planned]) -> Iterator[tuple[Path, Found]]:
        """Runs as they finish; if one fails or is killed, those that have begun, and then the error."""
        if not waiting:
            return
        if self.pool is None:
            context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
            self.pool = ProcessPoolExecutor(self.workers, context, initializer=_start)
        for path in waiting:
            _log(path).unlink(missing_ok=True)  # from now on a log tells that its run has begun
        with _uninterrupted():
            futures: dict[Future[Found], Path] = {
                self.pool.submit(_finished, run, path, each.content): path for path, each in waiting.items()
            }
        left = dict(waiting)
        failed: Exception | None = None
        for future in as_completed(futures):
            if future.cancelled():
                continue
            path = futures[future]
            try:
                found = future.result()
            except BrokenProcessPool:
                continue  # said once, below: it comes for every run that has not finished
            except Exception as error:
                each = left.pop(path)
                self.console.print(f"{each.model.candidate}, {each.name}: failed. {_log(path)} has its words.")
                failed = failed or error
                for other in futures:
                    other.cancel()  # those that run go on
                continue
            del left[path]
            yield path, found
        if failed is not None:
            raise failed
        if left:
            raise ChildProcessError(_killed({path: each for path, each in left.items() if _log(path).exists()}))


def _finished(run: Run, path: Path, content: Content) -> Found:
    """What a run finds, kept by the process that runs it: also if the one that asked is gone by then."""
    found = run(content, _log(path))
    write_whole(path, {"job": content, **found})
    return found


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C: the one that started them says when they end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log(path: Path) -> Path:
    return path.with_suffix(".log")


def _killed(begun: Mapping[Path, Planned]) -> str:
    names = "; ".join(f"{each.model.candidate}, {each.name} ({_log(path)})" for path, each in begun.items())
    return (
        f"compare: a process was killed, perhaps for want of memory, while it ran one of: {names}. What has finished "
        f"is kept: the same command goes on from there, with fewer --workers if memory was short."
    )


def _start() -> None:
    """What a process does first."""
    from torchrec_mtl.cli import quiet  # noqa: PLC0415  # the command line imports this package

    quiet()
    torch.set_num_threads(1)
