"""Draws a comparison: a panel a figure, a dot a candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator


def draw(summary: dict[str, Any], path: Path) -> None:
    """Draws every figure's mean with its standard error, and the seeds' values behind it; a line is the baseline."""
    figures, candidates = list(summary["better"]), summary["candidates"]
    places = -np.arange(len(candidates))
    size = (2.6 + 3.4 * len(figures), 1.4 + 0.3 * len(candidates))
    canvas, axes = plt.subplots(1, len(figures), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, figure in zip(axes[0], figures, strict=True):
        found = [each["figures"][figure] for each in candidates.values()]
        for place, each in zip(places, found, strict=True):
            axis.plot(each["values"], [place] * len(each["values"]), "|", color="0.65", markersize=7)
        errors = np.nan_to_num([each["error"] for each in found])
        axis.errorbar([each["mean"] for each in found], places, xerr=errors, fmt="o", markersize=4, capsize=2)
        axis.axvline(candidates[summary["baseline"]]["figures"][figure]["mean"], color="0.4", linewidth=0.8)
        axis.set(xlabel=f"{figure} ({summary['better'][figure]} is better)")
        axis.grid(axis="x", alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.margins(x=0.08)
    axes[0][0].set_ylim(places[-1] - 0.6, 0.6)
    axes[0][0].set_yticks(places, list(candidates))
    seeds = "one seed" if summary["seeds"] == 1 else f"mean ± standard error of {summary['seeds']} seeds"
    canvas.suptitle(f"Test split, {seeds}; line: {summary['baseline']}")
    canvas.savefig(path, dpi=110)
    plt.close(canvas)
