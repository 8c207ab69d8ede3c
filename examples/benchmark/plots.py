"""Draws the curves and the throughput."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt


def draw_curves(curves: dict[str, dict[str, Any]], output: Path) -> list[Path]:
    """Draws one picture a factor, both axes logarithmic, and returns the paths."""
    paths = []
    for factor, curve in curves.items():
        figure, axis = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
        axis.loglog(curve["x"], curve["ms_per_step"], "o-")
        powers = f"exponent {curve['exponent']:.2f}, upper half {curve['exponent_upper_half']:.2f}"
        axis.set(title=powers, xlabel=factor, ylabel="ms a step")
        axis.grid(which="both", alpha=0.3)
        paths.append(output / f"curve_{factor.replace(' ', '_')}.png")
        figure.savefig(paths[-1], dpi=110)
        plt.close(figure)
    return paths


def draw_throughput(pairs: list[dict[str, Any]], output: Path) -> Path:
    """Draws the ratio of every measured pair with its spread, and returns the path."""
    measured = [pair for pair in pairs if "ratio" in pair][::-1]
    names = [f"{pair['first']} / {pair['second']}\n{pair['workload']}" for pair in measured]
    middle = [pair["ratio"]["median"] for pair in measured]
    errors = [
        [value - pair["ratio"]["min"] for value, pair in zip(middle, measured, strict=True)],
        [pair["ratio"]["max"] - value for value, pair in zip(middle, measured, strict=True)],
    ]
    figure, axis = plt.subplots(figsize=(7, 1 + 0.42 * len(measured)), layout="constrained")
    bars = axis.barh(names, middle, xerr=errors)
    axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=4)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.tick_params(labelsize=7)
    axis.set(xscale="log", xlabel="ratio of samples a second, median and spread of the rounds")
    path = output / "throughput.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
