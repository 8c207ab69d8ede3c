"""The prepared rows as matrices for gradient boosting."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

CATEGORICAL = ("display", "mailer", "brand", "department")  # few enough values for native splits
ENCODED = ("household", "store", "product", "manufacturer", "category", "product_type")
FOLDS = 5


@dataclass(frozen=True)
class Rows:
    """One split.

    Args:
        inputs: float32 ``[N, F]``: the columns of ``CATEGORICAL``, the dense features, the lengths of the bags.
        ids: int32 ``[N]`` for each column of ``ENCODED``.
        table_sizes: Number of ids of each column of ``ENCODED``, with 0 for unknown.
        labels: int8 ``[N]`` for ``engage`` and ``purchase``.
        weights: float64 ``[N]``, the sampling weights.
        weeks: int32 ``[N]``.
    """

    inputs: np.ndarray
    ids: dict[str, np.ndarray]
    table_sizes: dict[str, int]
    labels: dict[str, np.ndarray]
    weights: np.ndarray
    weeks: np.ndarray


def read_rows(data: Path, split: str) -> Rows:
    """Reads one prepared split.

    Raises:
        FileNotFoundError: If ``data`` holds no complete output of ``prepare``.
    """
    if not (data / "manifest.json").is_file():
        raise FileNotFoundError(f"{data} has no manifest.json: run examples.complete_journey.prepare first")
    manifest = json.loads((data / "manifest.json").read_text())
    bags = list(manifest["bags"])
    scalars = [*CATEGORICAL, *manifest["dense"]]
    others = ("engage", "purchase", "sample_weight", "week")
    table = pq.read_table(data / split, columns=[*scalars, *bags, *ENCODED, *others])
    columns = [table[name].to_numpy() for name in scalars]
    columns += [pc.list_value_length(table[name]).to_numpy() for name in bags]
    inputs = np.empty((table.num_rows, len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        inputs[:, index] = column
    return Rows(
        inputs=inputs,
        ids={name: table[name].to_numpy() for name in ENCODED},
        table_sizes={name: manifest["table_sizes"][name] for name in ENCODED},
        labels={name: table[name].to_numpy() for name in ("engage", "purchase")},
        weights=table["sample_weight"].to_numpy().astype(np.float64),
        weeks=table["week"].to_numpy(),
    )


def encode_targets(splits: dict[str, Rows], task: str, smoothing: float) -> dict[str, np.ndarray]:
    r"""Replaces each id by its smoothed, weighted label rate in the training weeks.

    :math:`(\sum w y + s \bar w \bar y) / (\sum w + s \bar w)` over the rows of an id, with the smoothing :math:`s`.
    A training row is encoded without its own fold, rows of the other splits with all folds. A fold is a run of
    consecutive weeks: rows of one visit share labels, and random folds would hand them to each other.

    Returns:
        float32 ``[N, len(ENCODED)]`` for each split.
    """
    train = splits["train"]
    labels, weights = train.labels[task], train.weights
    pull = smoothing * weights.mean()
    mean = np.average(labels, weights=weights)
    first, last = train.weeks.min(), train.weeks.max()
    fold = (train.weeks - first) * FOLDS // (last - first + 1)
    encoded = {name: np.empty((len(rows.weights), len(ENCODED)), dtype=np.float32) for name, rows in splits.items()}
    for index, column in enumerate(ENCODED):
        size, ids = train.table_sizes[column], train.ids[column]
        cell = fold * size + ids
        total = np.bincount(cell, weights, FOLDS * size).reshape(FOLDS, size)
        positive = np.bincount(cell, weights * labels, FOLDS * size).reshape(FOLDS, size)
        rates = (positive.sum(axis=0) + pull * mean) / (total.sum(axis=0) + pull)
        other_folds = (positive.sum(axis=0) - positive + pull * mean) / (total.sum(axis=0) - total + pull)
        for name, rows in splits.items():
            encoded[name][:, index] = other_folds[fold, ids] if name == "train" else rates[rows.ids[column]]
    return encoded
