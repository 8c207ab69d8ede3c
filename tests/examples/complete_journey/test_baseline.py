import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console
from threadpoolctl import threadpool_limits

from examples.complete_journey import baseline
from examples.complete_journey.baseline_rows import CATEGORICAL, ENCODED, FOLDS, Rows, encode_targets, read_rows
from examples.complete_journey.exposures import SamplingRates
from examples.complete_journey.prepare import prepare

ONE_STEP = baseline.Settings(max_iter=baseline.STEP, max_leaf_nodes=4, min_samples_leaf=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_source, random_tables):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder, rates=SamplingRates(0.9, 0.9), source=write_source(folder / "source", random_tables))
    return folder


def rows_of(ids, labels, weights, weeks):
    return Rows(
        inputs=np.zeros((len(ids), 1), np.float32),
        ids={name: np.array(ids) for name in ENCODED},
        table_sizes=dict.fromkeys(ENCODED, max(ids) + 1),
        labels={"engage": np.array(labels)},
        weights=np.array(weights, float),
        weeks=np.array(weeks),
    )


def test_target_encoding_of_other_splits_is_the_smoothed_weighted_rate():
    # id 1: positive weight 2 of 2 + 4; all rows: 2 of 8; average weight 8 / 4, so smoothing 3 pulls with weight 6
    train = rows_of([1, 1, 2, 2], [1, 0, 0, 0], [2, 4, 1, 1], weeks=[10, 11, 12, 13])
    test = rows_of([1, 0], [0, 0], [1, 1], weeks=[50, 50])
    encoded = encode_targets({"train": train, "test": test}, "engage", smoothing=3)["test"]
    np.testing.assert_allclose(encoded[0], (2 + 6 * 0.25) / (6 + 6))
    np.testing.assert_allclose(encoded[1], 0.25)  # an id not seen in training gets the mean


def test_target_encoding_of_a_training_row_leaves_out_the_weeks_around_it():
    weeks = np.arange(10, 10 + 2 * FOLDS)  # two weeks a fold
    labels = np.zeros(len(weeks), int)
    labels[:3] = 1
    train = rows_of(np.zeros_like(weeks), labels, np.ones(len(weeks)), weeks)
    encoded = encode_targets({"train": train}, "engage", smoothing=0)["train"][:, 0]
    others = len(weeks) - 2
    np.testing.assert_allclose(encoded[:4], [1 / others, 1 / others, 2 / others, 2 / others])
    np.testing.assert_allclose(encoded[4:], 3 / others)


def test_rows_carry_ids_lengths_of_bags_and_weights(data):
    manifest = json.loads((data / "manifest.json").read_text())
    rows = read_rows(data, "test")
    assert rows.inputs.shape == (
        manifest["splits"]["test"]["rows"],
        len(CATEGORICAL) + len(manifest["dense"]) + len(manifest["bags"]),
    )
    assert np.unique(rows.weights) == pytest.approx([1, 1 / 0.9])
    assert np.isfinite(rows.inputs).all()


def test_run_writes_each_seed_and_their_mean(data, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "DEFAULTS", {"engage": ONE_STEP, "purchase": ONE_STEP})
    with threadpool_limits(1):  # rows too few to share
        metrics = baseline.run(data, tmp_path, [0, 1], Console(quiet=True))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for task in ("engage", "purchase"):
        runs = metrics[task]["runs"]
        assert [one["seed"] for one in runs] == [0, 1]
        mean = (runs[0]["test"]["auc"] + runs[1]["test"]["auc"]) / 2
        assert metrics[task]["test"]["auc"]["mean"] == pytest.approx(mean)
        assert 0 < mean < 1
        assert metrics[task]["settings"] == dataclasses.asdict(ONE_STEP)


def test_data_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json: run examples\.complete_journey\.prepare"):
        read_rows(tmp_path, "train")
