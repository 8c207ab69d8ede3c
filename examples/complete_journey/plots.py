"""Draws a run: its training losses and its figures on the test split."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def draw(run: Path, figures: dict[str, Any]) -> Path:
    """Draws the losses of every task and its AUC and NE on the test split, and returns the picture's path."""
    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    tasks = list(figures["tasks"])
    figure, axes = plt.subplots(1, len(tasks) + 1, figsize=(4 * (len(tasks) + 1), 3.4), layout="constrained")
    for axis, task in zip(axes, tasks, strict=False):
        points = curves.Scalars(f"train/{task}/loss")
        axis.plot([point.step for point in points], [point.value for point in points])
        axis.set(title=f"{task}: training loss", xlabel="step", ylim=(0, None))
    binary = [task for task in tasks if "auc" in figures["tasks"][task]]
    for offset, metric in ((-0.2, "auc"), (0.2, "ne")):
        heights = [figures["tasks"][task][metric] for task in binary]
        bars = axes[-1].bar([i + offset for i in range(len(binary))], heights, width=0.38, label=metric.upper())
        axes[-1].bar_label(bars, fmt="%.3f", fontsize=8)
    axes[-1].set_xticks(range(len(binary)), [task.replace("_given_", "\ngiven ") for task in binary])
    axes[-1].set(title=f"{figures['split']} split", ylim=(0, 1.15))
    axes[-1].legend(loc="lower right")
    path = run / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
