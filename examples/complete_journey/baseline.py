"""Gradient boosting on the same rows, the opponent to beat: ``python -m examples.complete_journey.baseline --help``."""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from examples.complete_journey.baseline_rows import CATEGORICAL, Rows, encode_targets, read_rows

STEP = 10  # trees between two looks at the validation split


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one fit.

    Args:
        weight_power: The fit weighs a row by ``sample_weight ** weight_power``: 1 fits the population, 0 the sample.
            Scores are always measured on the population.
        target_encoding: Whether the ids of many values enter as out-of-fold label rates. They are left out otherwise.
        smoothing: Rows of average weight that pull such a rate to the mean.
        learning_rate: Shrinkage of each tree.
        max_iter: Number of trees; the validation split picks how many of them are used.
        max_leaf_nodes: Leaves of a tree.
        min_samples_leaf: Rows of a leaf.
        l2_regularization: Penalty of the leaf values.
    """

    weight_power: float = 0.5
    target_encoding: bool = False
    smoothing: float = 20.0
    learning_rate: float = 0.1
    max_iter: int = 250
    max_leaf_nodes: int = 63
    min_samples_leaf: int = 300
    l2_regularization: float = 20.0


# Chosen by the weighted AUC on the validation split, see the README.
DEFAULTS = {
    "engage": Settings(weight_power=0.75, learning_rate=0.05),
    "purchase": Settings(weight_power=0.25, learning_rate=0.1),
}


def fit(splits: dict[str, Rows], task: str, settings: Settings, seed: int) -> dict[str, Any]:
    """Fits ``task`` on train, picks the number of trees on validation and reports the AUCs on both other splits.

    Returns:
        ``iterations``, ``seconds`` and, per split, ``auc`` (weighted to the population), ``auc_unweighted`` and, for
        purchase, ``auc_engaged``: the weighted AUC among the engaged rows.
    """
    started = time.monotonic()
    inputs = {name: rows.inputs for name, rows in splits.items()}
    if settings.target_encoding:
        encoded = encode_targets(splits, task, settings.smoothing)
        inputs = {name: np.column_stack([inputs[name], encoded[name]]) for name in splits}
    train = splits["train"]
    model = HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        max_leaf_nodes=settings.max_leaf_nodes,
        min_samples_leaf=settings.min_samples_leaf,
        l2_regularization=settings.l2_regularization,
        categorical_features=list(range(len(CATEGORICAL))),
        early_stopping=False,  # its own would hold out random training rows; the validation weeks decide instead
        random_state=seed,
    )
    model.fit(inputs["train"], train.labels[task], sample_weight=train.weights**settings.weight_power)
    validation = {
        iterations: _auc(splits["validation"], task, scores)
        for iterations, scores in _staged_scores(model, inputs["validation"])
    }
    iterations = max(validation, key=lambda count: validation[count])
    result: dict[str, Any] = {"iterations": iterations}
    for name in ("validation", "test"):
        scores = next(scores for count, scores in _staged_scores(model, inputs[name]) if count == iterations)
        result[name] = _report(splits[name], task, scores)
    return result | {"seconds": round(time.monotonic() - started, 1)}


def _staged_scores(model: HistGradientBoostingClassifier, inputs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for iterations, scores in enumerate(model.staged_decision_function(inputs), start=1):
        if iterations % STEP == 0:
            yield iterations, scores.ravel()


def _auc(rows: Rows, task: str, scores: np.ndarray) -> float:
    return float(roc_auc_score(rows.labels[task], scores, sample_weight=rows.weights))


def _report(rows: Rows, task: str, scores: np.ndarray) -> dict[str, float]:
    report = {
        "auc": _auc(rows, task, scores),
        "auc_unweighted": float(roc_auc_score(rows.labels[task], scores)),
    }
    if task == "purchase":
        engaged = rows.labels["engage"] == 1
        labels, weights = rows.labels[task][engaged], rows.weights[engaged]
        report["auc_engaged"] = float(roc_auc_score(labels, scores[engaged], sample_weight=weights))
    return report


def run(data: Path, output: Path, seeds: list[int], console: Console) -> dict[str, Any]:
    """Fits both tasks with every seed and writes ``metrics.json`` with each run, the means and the deviations."""
    splits = {split: read_rows(data, split) for split in ("train", "validation", "test")}
    metrics: dict[str, Any] = {}
    for task, settings in DEFAULTS.items():
        runs = []
        for seed in seeds:
            with console.status(f"Fitting {task}, seed {seed}"):
                runs.append({"seed": seed, **fit(splits, task, settings, seed)})
            console.print(f"{task}, seed {seed}: {runs[-1]}", highlight=False)
        summary = {split: _summarize([one[split] for one in runs]) for split in ("validation", "test")}
        metrics[task] = {"settings": dataclasses.asdict(settings), "runs": runs, **summary}
    output.mkdir(parents=True, exist_ok=True)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    _print(metrics, console)
    return metrics


def _summarize(reports: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    values = {name: [report[name] for report in reports] for name in reports[0]}
    return {name: {"mean": float(np.mean(each)), "std": float(np.std(each))} for name, each in values.items()}


def _print(metrics: dict[str, Any], console: Console) -> None:
    table = Table("task", "AUC", "validation", "test", title="Gradient boosting, mean ± deviation over the seeds")
    for task, result in metrics.items():
        for name in result["test"]:
            cells = (f"{result[split][name]['mean']:.4f} ± {result[split][name]['std']:.4f}" for split in _REPORTED)
            table.add_row(task, name, *cells)
    console.print(table)


_REPORTED = ("validation", "test")


def main(arguments: list[str] | None = None) -> None:
    """Runs the baseline from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.complete_journey.baseline",
        description="Fits scikit-learn's histogram gradient boosting to engage and to purchase over all exposures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data/complete_journey"), help="what prepare wrote")
    parser.add_argument("--output", type=Path, default=Path("runs/baseline"), help="folder for metrics.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one fit of each task per seed")
    options = parser.parse_args(arguments)
    run(options.data, options.output, options.seeds, Console())


if __name__ == "__main__":
    main()
