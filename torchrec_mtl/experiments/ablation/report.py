"""Tables of the ablation: mean ± standard error over seeds, and changes seed by seed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from torchrec_mtl.experiments.ablation.run import Figures
from torchrec_mtl.experiments.ablation.sources import Source
from torchrec_mtl.experiments.ablation.trainings import TRAININGS
from torchrec_mtl.experiments.ablation.variants import SINGLE_TASK, Variant
from torchrec_mtl.experiments.statistics import mean_and_error

COLUMNS = {
    "cvr_auc_clicked": "CVR AUC, clicks",
    "cvr_auc_all": "CVR AUC, all",
    "cvr_ne_clicked": "NE, clicks",
    "cvr_ne_all": "NE, all",
    "cvr_calibration_clicked": "calibration, clicks",
    "cvr_calibration_all": "calibration, all",
    "cvr_bias_unclicked": "bias of pCVR, unclicked",
    "ctr_auc": "CTR AUC",
}
CHANGES = ("cvr_auc_clicked", "cvr_auc_all", "cvr_bias_unclicked")
SHARED = {"none": "nothing", "embeddings": "embeddings", "hidden": "embeddings, hidden layers"}


@dataclass(frozen=True)
class Run:
    """A variant on the rows of a seed.

    Args:
        source: Data set.
        variant: What is trained.
        seed: Of rows and parameters.
        figures: What was measured, once it is.
    """

    source: Source
    variant: Variant
    seed: int
    figures: Figures = field(default_factory=dict)

    def with_figures(self, figures: Figures) -> Run:
        """The run with what was measured."""
        return replace(self, figures=figures)


@dataclass(frozen=True)
class Cell:
    """One figure of one variant.

    Args:
        source: Title of the data set.
        sharing: Key of the sharing.
        training: Key of the training.
        into_ctr: Whether the product's gradient reaches pCTR; ``None`` where there is no product.
        figure: What is measured.
        seeds: Number of seeds.
        mean: Mean over seeds.
        error: Standard error of the mean.
        change: Mean of the difference to the model that shares nothing and is trained on clicks, seed by seed.
        change_error: Its standard error.
    """

    source: str
    sharing: str
    training: str
    into_ctr: bool | None
    figure: str
    seeds: int
    mean: float
    error: float
    change: float
    change_error: float


Table = dict[str, dict[Variant, dict[str, Cell]]]  # {title of the source: {variant: {figure: cell}}}


def summarize(runs: Sequence[Run]) -> Table:
    """Means over seeds, and changes against the single-task model under the same seeds."""
    values: dict[str, dict[Variant, dict[int, Figures]]] = {}
    for run in runs:
        values.setdefault(run.source.title, {}).setdefault(run.variant, {})[run.seed] = run.figures
    return {title: {variant: _cells(title, variant, found) for variant in found} for title, found in values.items()}


def _cells(title: str, variant: Variant, found: Mapping[Variant, Mapping[int, Figures]]) -> dict[str, Cell]:
    own, other = found[variant], found[SINGLE_TASK]
    into_ctr = variant.into_ctr if TRAININGS[variant.training].product else None
    cells = {}
    for figure in next(iter(own.values())):
        values = np.array([own[seed][figure] for seed in sorted(own)])
        changes = values - np.array([other[seed][figure] for seed in sorted(own)])
        numbers = (*mean_and_error(values), *mean_and_error(changes))
        cells[figure] = Cell(title, variant.sharing, variant.training, into_ctr, figure, len(values), *numbers)
    return cells


def write_report(table: Table, size: Mapping[str, int], output: Path, console: Console) -> None:
    """Writes ``report.md``, ``report.json``, ``report.csv`` and, with Matplotlib, ``<source>.png``."""
    cells = [_plain(cell) for variants in table.values() for figures in variants.values() for cell in figures.values()]
    (output / "report.json").write_text(json.dumps({"size": dict(size), "cells": cells}, indent=1) + "\n")
    with (output / "report.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, cells[0])
        writer.writeheader()
        writer.writerows(cells)
    (output / "report.md").write_text(markdown(table, size))
    pictures = _draw(table, output, console)
    console.print(f"{output / 'report.md'}, report.json, report.csv" + "".join(f", {path.name}" for path in pictures))


def _plain(cell: Cell) -> dict[str, object]:
    """A cell as JSON and CSV know it: without NaN."""
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value for name, value in asdict(cell).items()
    }


def markdown(table: Table, size: Mapping[str, int]) -> str:
    """Two tables a source: figures, and changes against the single-task model."""
    parts = [", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in size.items()) + "\n"]
    for title, variants in table.items():
        first = next(iter(variants.values()))
        columns = [name for name in COLUMNS if name in first]
        parts.append(f"## {title}, mean ± standard error of {seeds_of(variants)}\n")
        parts.append(_rows(variants, columns, lambda cell: _text(cell.mean, cell.error, "")))
        if "true_auc_all" in first:
            best = (f"{first[f'true_auc_{space}'].mean:.4f} on {space}" for space in ("clicked", "all"))
            parts.append(f"AUC of the true pCVR, which none can beat: {', '.join(best)} rows.\n")
        parts.append("Change against sharing nothing and training on clicks, seed by seed:\n")
        changes = [name for name in CHANGES if name in first]
        others = {variant: cells for variant, cells in variants.items() if variant != SINGLE_TASK}
        parts.append(_rows(others, changes, lambda cell: _text(cell.change, cell.change_error, "+")))
    return "\n".join(parts)


def seeds_of(variants: Mapping[Variant, Mapping[str, Cell]]) -> str:
    """For titles: "5 seeds"."""
    count = next(iter(variants.values()))["ctr_auc"].seeds
    return f"{count} seed" + ("s" if count > 1 else "")


def _rows(variants: Mapping[Variant, Mapping[str, Cell]], columns: Sequence[str], text: Callable[[Cell], str]) -> str:
    heads = ["shared", "pCVR is trained", "gradient of the product into pCTR", *(COLUMNS[name] for name in columns)]
    lines = [heads, ["---"] * len(heads)]
    for variant, cells in variants.items():
        training = TRAININGS[variant.training]
        gradient = ("on" if variant.into_ctr else "off") if training.product else ""
        lines.append([SHARED[variant.sharing], training.title, gradient, *(text(cells[name]) for name in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: float, error: float, sign: str) -> str:
    return f"{value:{sign}.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")


def _draw(table: Table, output: Path, console: Console) -> list[Path]:
    try:
        from torchrec_mtl.experiments.ablation.plot import draw  # noqa: PLC0415  # Matplotlib is an extra
    except ImportError:
        console.print("No pictures: Matplotlib is not installed (pip install 'torchrec_mtl[examples]').")
        return []
    return [draw(title, variants, output) for title, variants in table.items()]
