"""``torchrec-mtl compare``: every candidate tuned with the same budget, then measured under several seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from torchrec_mtl.experiments.comparison.candidates import Comparison, Overrides, read_comparison, read_yaml
from torchrec_mtl.experiments.comparison.checks import check, check_seeds
from torchrec_mtl.experiments.comparison.planned import Model, Planned, models_of
from torchrec_mtl.experiments.comparison.pool import RunPool
from torchrec_mtl.experiments.comparison.report import Measurement, summarize, write_report
from torchrec_mtl.experiments.comparison.run import Cost, cost
from torchrec_mtl.experiments.comparison.tuning import best
from torchrec_mtl.json_file import write_whole


def compare(
    job: Path,
    candidates: Path,
    output: Path,
    seeds: int = 5,
    workers: int = 2,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Tunes and measures every candidate and writes ``report.md``, ``report.json`` and ``report.png``.

    A setting is chosen for each model by its figures on the validation split, under one seed. What was chosen is then
    trained under every seed and measured on the test split. Runs whose file is in ``output`` already are not repeated:
    the same command goes on where it was stopped.

    Args:
        job: Job file.
        candidates: File of the candidates, their tuning and the figures.
        output: Where runs and reports go. A run is known by its job and its files, not by the version of the code: take
            another directory after a change of a trunk's code.
        seeds: Number of seeds, at most 1,000.
        workers: Processes, one thread each.
        only: Some of the candidates, beside the baseline; by default all.

    Returns:
        What ``report.json`` holds.

    Raises:
        ValueError: Before the first run, if a file or a candidate is wrong, a metric is unknown, or a number is out of
            range.
    """
    for name, number in (("seeds", seeds), ("workers", workers)):
        if number < 1:
            raise ValueError(f"compare: {name} must be at least 1, but found {number}.")
    check_seeds(seeds)
    console, comparison = Console(), read_comparison(candidates)
    comparison = comparison.only(only) if only else comparison
    models = models_of(read_yaml(job), comparison)
    with console.status("Building every candidate"):
        check(models, comparison)
    with RunPool(output, workers, len(models) * (len(comparison.settings) + seeds), console) as pool:
        chosen = _tuned(models, comparison, pool)
        finals = _measured(models, chosen, seeds, pool)
    with console.status("Timing the steps of every candidate, one after the other"):
        costs = [_cost(model, setting, output) for model, setting in zip(models, chosen, strict=True)]
    found = [Measurement(*each) for each in zip([m.candidate for m in models], chosen, finals, costs, strict=True)]
    summary = summarize(found, comparison)
    write_report(summary, output, console)
    return summary


def _tuned(models: Sequence[Model], comparison: Comparison, pool: RunPool) -> list[Overrides]:
    """The setting of each model that is best on the validation split."""
    settings = comparison.settings
    found = pool.finish([Planned(model, "trial", model.trial(setting)) for model in models for setting in settings])
    chosen = []
    for first in range(0, len(found), len(settings)):
        trials = [each["tasks"] for each in found[first : first + len(settings)]]
        chosen.append(settings[best(trials, comparison.figures)])
    return chosen


def _measured(models: Sequence[Model], chosen: Sequence[Overrides], seeds: int, pool: RunPool) -> list[list[Any]]:
    """The test metrics of each model under every seed."""
    pairs = [(model, setting) for model, setting in zip(models, chosen, strict=True)]
    planned = [Planned(m, f"seed_{seed}", m.final(setting, seed)) for m, setting in pairs for seed in range(seeds)]
    found = [each["tasks"] for each in pool.finish(planned)]
    return [found[first : first + seeds] for first in range(0, len(found), seeds)]


def _cost(model: Model, setting: Overrides, output: Path) -> Cost:
    planned = Planned(model, "cost", model.final(setting, 0))
    path = planned.path(output)
    if not path.exists():
        write_whole(path, asdict(cost(planned.content)))
    return Cost(**json.loads(path.read_text()))
