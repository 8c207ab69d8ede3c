"""Mistakes in a comparison that would only be found after an hour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from torchrec_mtl.experiments.comparison.candidates import Comparison, Figure
from torchrec_mtl.experiments.comparison.planned import TUNING_SEED, Model
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.tasks.task import Task
from torchrec_mtl.training.job_file import read_job


def check(models: Sequence[Model], comparison: Comparison) -> None:
    """Builds every model, the first in every setting, so that no mistake is found after an hour.

    Raises:
        ValueError: If a job is wrong, has no validation or test split, a candidate's models do not give each figure
            once, its task does not have the metric, or a candidate would be measured on other rows.
    """
    gives: dict[str, list[tuple[Task, bool]]] = {}
    for model in models:
        for setting in comparison.settings if model is models[0] else comparison.settings[:1]:
            where = f"Candidate '{model.candidate}'" + (f" with {setting}" if setting else "")
            try:
                job = read_job({**model.final(setting, 0), "output": "unused"})
                job.converter("train")
                job.checked()
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        data = model.content.get("data", {})
        if missing := [name for name in ("validation", "test") if not data.get(name)]:
            raise ValueError(
                f"{where}: data.{missing[0]} names no files. Settings are chosen on the validation split, and what was "
                f"chosen is measured on the test split."
            )
        _check_rows(model, models[0])
        gives.setdefault(model.candidate, []).extend(
            (task, job.data.group is not None) for task in job.tasks if task.served
        )
    for name, tasks in gives.items():
        _check_figures(name, tasks, comparison.figures)


def _check_rows(model: Model, first: Model) -> None:
    for split in ("validation", "test"):
        own, others = (each.content["data"][split] for each in (model, first))
        if own != others:
            raise ValueError(
                f"Candidate '{model.candidate}': data.{split} is {own}, but {others} for '{first.candidate}'. Figures "
                f"of different rows cannot be compared: override data.{split} in common, for all candidates."
            )


def check_seeds(seeds: int) -> None:
    """Checks that no seed is the one of the trials.

    Raises:
        ValueError: If there are too many.
    """
    if seeds > TUNING_SEED:
        raise ValueError(
            f"compare: seeds can be at most {TUNING_SEED}, but found {seeds}: they are 0, 1, ..., and settings are "
            f"chosen under seed {TUNING_SEED}, which no run that is measured may share."
        )


def metric_names(task: Task, grouped: bool) -> list[str] | None:
    """Names of a task's metrics, as it gives them for no rows; ``None`` if that takes its statistics."""
    target = task.target({column: torch.zeros(0) for column in task.columns}).numpy()
    prediction = np.zeros(0)
    if not task.needs_fit:
        prediction = task.predict(torch.zeros((0,) if task.outputs == 1 else (0, task.outputs))).numpy()
    try:
        return list(task.metrics(prediction, target, np.zeros(0), np.zeros(0, int) if grouped else None))
    except (IndexError, ValueError):
        if task.needs_fit:  # of a shape that only its statistics tell
            return None
        raise


def _check_figures(candidate: str, tasks: Sequence[tuple[Task, bool]], figures: Sequence[Figure]) -> None:
    names = [task.name for task, _ in tasks]
    for figure in figures:
        if (count := names.count(figure.task)) != 1:
            raise ValueError(
                f"Candidate '{candidate}': the figure {figure.name} needs one task '{figure.task}' among its models, "
                f"but found {count}. Its tasks: {names}."
            )
        found = metric_names(*tasks[names.index(figure.task)])
        if found is not None and figure.metric not in found:
            hint = " (gauc needs data.group)." if figure.metric == "gauc" else did_you_mean(figure.metric, found)
            raise ValueError(
                f"Candidate '{candidate}': task '{figure.task}' has no metric '{figure.metric}'. Found {found}{hint}"
            )
