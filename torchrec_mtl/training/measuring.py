"""Measures a split and writes what was found: figures as JSON, reliability as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchrec_mtl.calibration.reliability import reliability
from torchrec_mtl.data.source import Source
from torchrec_mtl.tasks.task import Task
from torchrec_mtl.training.evaluation import Metrics, Rows, collect, metrics_of
from torchrec_mtl.training.inside import inside_view, report_inside
from torchrec_mtl.training.reliability_plot import draw_reliability
from torchrec_mtl.training.reporting import Reporter, write_metrics
from torchrec_mtl.training.session import Session


@dataclass(frozen=True)
class Measured:
    """A split's rows with their predictions, and their metrics.

    Args:
        split: "train", "validation" or "test".
        step: Steps that were trained.
        rows: All rows, with the outputs that calibration reads.
        metrics: ``{task: {metric: value}}``.
    """

    split: str
    step: int
    rows: Rows
    metrics: Metrics


def measure(session: Session, source: Source, split: str, step: int, reporter: Reporter) -> Measured | None:
    """Measures a split and prints its metrics, and the trunk's inside; ``None`` on ranks other than 0."""
    job, ranks = session.job, session.runtime.rank.world_size
    view = inside_view(session)
    with reporter.bar(split, source.rows) as bar:
        rows = collect(
            session.pipeline,
            session.reader(source),
            session.runtime,
            job.data.group,
            lambda count: bar.advance(count * ranks),
            list(job.calibration) if split == "validation" else (),
            view,
        )
    levels = [] if view is None else view.figures(session.runtime.control)
    if rows is None:
        return None
    metrics = metrics_of(job.tasks, rows)
    reporter.metrics(split, metrics, step)
    if view is not None:
        report_inside(session, levels, split, step, reporter)
    return Measured(split, step, rows, metrics)


def write_figures(session: Session, name: str, found: Measured, more: Mapping[str, Any]) -> None:
    """Writes ``name`` and ``reliability_<split>.png`` to the job's output.

    Args:
        session: The session that measured.
        name: File name of the figures.
        found: What was measured.
        more: Further figures.
    """
    tasks = [(task.name, reliability_of(task, found.rows)) for task in session.job.tasks if task.served]
    reliable = {task: figures for task, figures in tasks if figures is not None}
    figures: dict[str, Any] = {"split": found.split, "step": found.step, "tasks": found.metrics}
    if calibrators := session.serving.calibrators:
        figures["calibrated"] = {task: type(each).__name__ for task, each in calibrators.items()}
    output = session.job.output
    write_metrics(output / name, {**figures, **more, "reliability": reliable})
    if reliable:
        draw_reliability(reliable, output / f"reliability_{found.split}.png")


def reliability_of(task: Task, rows: Rows) -> dict[str, Any] | None:
    """A task's reliability inside its label space; ``None`` where it predicts more than one value a row."""
    inside, target, weight = rows.in_space(task)
    prediction = rows.predictions[task.name][inside]
    return reliability(prediction, target, weight) if prediction.ndim == target.ndim == 1 else None
