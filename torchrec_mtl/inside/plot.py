"""Draws the inside of a network: who reads which expert how much, and which experts say the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchrec_mtl.inside.figures import Level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL, SMALL = 0.34, 0.15  # inches; small cells hold no number
LETTER = 0.075  # inches a letter of a label takes
NUMBERED = 16  # experts; above, the cells of the similarity hold no numbers: N² of them


def draw_inside(levels: Sequence[Level], path: Path, title: str = "") -> Path:
    """Draws a line a level: load, entropy beside it, similarity; returns the picture's path.

    Args:
        levels: As :meth:`~torchrec_mtl.inside.view.InsideView.figures` gives them, at least one.
        path: The PNG to write.
        title: Stands above.
    """
    from matplotlib.figure import Figure  # its import takes a second; without pyplot it needs no screen

    widths, heights = [_width(level) for level in levels], [_height(level) for level in levels]
    figure = Figure(figsize=(max(widths), sum(heights) + 0.4 * bool(title)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    lines = figure.subfigures(len(levels), 1, squeeze=False, height_ratios=heights)
    for line, level in zip(lines[:, 0], levels, strict=True):
        line.suptitle(level.name, fontsize=10, x=0.01, ha="left")
        loads, entropies, likes = line.subplots(1, 3, width_ratios=_parts(level))
        if level.readers:
            _heat(loads, level.load, level.readers, level.experts, "load: mean weight")
            _heat(entropies, level.entropy[:, None], (), ("entropy, 1: even",), "")
        else:
            _nothing(loads, "nothing mixes these experts")
            _nothing(entropies, "")
        if level.similarity is None:
            _nothing(likes, "")
        else:
            _heat(likes, level.similarity, level.experts, level.experts, "similarity of experts", diverging=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _heat(
    axis: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, diverging: bool = False
) -> None:
    low = -1.0 if diverging else min(0.0, np.nanmin(values, initial=0.0))
    high = 1.0 if diverging or not title else max(np.nanmax(values, initial=0.0), 1e-9)
    shown = np.ma.masked_invalid(values)
    colours = "RdBu_r" if diverging else "viridis"
    axis.imshow(shown, vmin=low, vmax=high, cmap=colours, aspect="auto")
    axis.set_title(title, fontsize=9)
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    if diverging and len(columns) > NUMBERED:
        return
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            place = (value - low) / (high - low)
            dark = abs(place - 0.5) > 0.35 if diverging else place < 0.6  # of the two ends of red and blue, of viridis
            axis.text(
                j,
                i,
                _figure(value, 2 if diverging else 3),
                ha="center",
                va="center",
                fontsize=6,
                color="white" if dark else "black",
            )


def _nothing(axis: Axes, text: str) -> None:
    axis.axis("off")
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, transform=axis.transAxes)


def _figure(value: float, decimals: int) -> str:
    """Without the leading zero; small values with more decimals."""
    text = f"{value:.{decimals if abs(value) < 0.1 else 2}f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _like_cell(level: Level) -> float:
    return CELL if len(level.experts) <= NUMBERED else SMALL


def _parts(level: Level) -> tuple[float, float, float]:
    """Widths of load, entropy and similarity in inches."""
    experts = max(len(level.experts), 4)
    return CELL * experts, 1.2 * CELL, _like_cell(level) * experts


def _width(level: Level) -> float:
    return sum(_parts(level)) + 2 * LETTER * max(map(len, [*level.readers, *level.experts])) + 1


def _height(level: Level) -> float:
    likes = 0 if level.similarity is None else _like_cell(level) * len(level.experts)
    return max(CELL * max(len(level.readers), 2), likes) * 0.8 + LETTER * max(map(len, level.experts)) + 1
