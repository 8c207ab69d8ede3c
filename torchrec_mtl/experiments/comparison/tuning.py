"""Chooses a model's setting among those that were tried: by the validation split, never by the test split."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchrec_mtl.experiments.comparison.candidates import Figure, Metrics


def score(metrics: Metrics, figures: Sequence[Figure]) -> float:
    r"""How good a trial is: :math:`\sum_f w_f s_f m_f / \sum_f w_f` over the figures of the model's own tasks.

    With the value m of a figure, its weight w and its sign s, -1 where lower is better: of AUCs of weight 1 the mean.

    Raises:
        ValueError: If the model has none of the figures.
    """
    own = [figure for figure in figures if figure.task in metrics]
    if not own:
        raise ValueError(f"No figure is of the tasks {list(metrics)}. Found {[figure.name for figure in figures]}.")
    total = sum(figure.weight * figure.of(metrics) * (1 if figure.better == "higher" else -1) for figure in own)
    return total / sum(figure.weight for figure in own)


def best(trials: Sequence[Metrics], figures: Sequence[Figure]) -> int:
    """The place of the best trial; among equals the first. One whose score is not a number is the worst."""
    scores = [score(metrics, figures) for metrics in trials]
    return max(range(len(scores)), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])
