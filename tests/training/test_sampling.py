"""A job whose training split lost rows without a click: trained on two ranks, measured, and served without a rate."""

import copy
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.synthetic import impressions, job, write_job, write_split
from tests.training.test_bad_input import fails
from torchrec_mtl import cli
from torchrec_mtl.data import NegativeSampling
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.tasks.metrics import binary_metrics
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.evaluation import task_metrics

KEPT = {0: 0.25, 1: 0.5, 2: 1.0}  # by shop: powers of two, so that a row stands for a whole number of rows
COLUMN = {"label": "click", "column": "keep_rate"}


def sampled(rows, seed):
    """Impressions of which each without a click was kept by chance, at a rate that all rows of its shop carry."""
    table = impressions(rows, seed)
    rate = np.array([KEPT[shop % 3] for shop in table["shop"].to_pylist()], np.float32)
    clicked = table["click"].to_numpy() == 1
    kept = clicked | (np.random.default_rng(seed).random(rows) < rate)
    return table.append_column("keep_rate", pa.array(rate)).filter(pa.array(kept))


def replicated(table):
    """Each row without a click as often as it stands for others."""
    times = np.where(table["click"].to_numpy() == 1, 1, 1 / table["keep_rate"].to_numpy()).astype(int)
    return table.take(pa.array(np.repeat(np.arange(table.num_rows), times)))


def without(table):
    return table.drop(["keep_rate"])


def alone(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        return cli.run([*arguments])


def train_and_evaluate(path):
    with distributed():
        tested = cli.run(["train", "--config", path])
        return tested, cli.run(["evaluate", "--config", path, "--split", "train"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    train = sampled(700, seed=1)
    write_split(root / "train", train)
    write_split(root / "validation", impressions(200, seed=2))  # it and the test split have no column of rates
    write_split(root / "test", impressions(301, seed=3), files=1)
    write_split(root / "replicated", without(replicated(train)))
    content = job(root)
    content["data"]["sampling"] = COLUMN
    path = write_job(root / "job.yaml", content)
    return root, path, run_on_ranks(train_and_evaluate, 2, path)


def test_figures_of_a_sampled_split_are_those_of_all_rows(world):
    """Exactly: the same checkpoint, measured on the split with each row as often as it stands for others."""
    root, _, ranks = world
    content = job(root)
    content["data"]["test"] = [str(root / "replicated")]
    full = alone("evaluate", "--config", write_job(root / "full.yaml", content))
    _, found = ranks[0]
    assert full.keys() == found.keys() == {"ctr", "ctcvr", "cvr", "value"}
    for task, figures in found.items():
        rows = (full[task].pop("rows"), figures.pop("rows"))
        assert rows[0] > rows[1] if task in ("ctr", "ctcvr") else rows[0] == rows[1], task
        assert figures == pytest.approx(full[task], rel=1e-5, abs=1e-6), task


def test_an_undeclared_sampling_would_give_other_figures(world):
    """Guards the test above."""
    root, _, ranks = world
    content = job(root)
    content["data"]["test"] = [str(root / "train")]
    found = alone("evaluate", "--config", write_job(root / "undeclared.yaml", content))
    assert found["ctr"]["calibration"] < 0.9 * ranks[0][1]["ctr"]["calibration"]


def test_one_and_two_ranks_agree(world):
    _, path, ranks = world
    one = alone("evaluate", "--config", path, "--split", "train")
    two = ranks[0][1]
    for task, figures in one.items():
        figures.pop("rows")
        assert {name: two[task][name] for name in figures} == pytest.approx(figures, rel=1e-6, abs=1e-6), task


def test_an_unsampled_split_is_measured_as_it_stands(world):
    """And predictions, of rows without label or rate, are those that were measured."""
    root, path, ranks = world
    test = pq.read_table(root / "test")
    write_split(root / "bare", test.drop(["click", "purchase", "value", "sample_weight", "user"]), files=1)
    arguments = ["--rows", f"[{root}/bare]", "--predictions", str(root / "predictions")]
    assert alone("predict", "--config", path, *arguments) == 301
    found = pq.read_table(root / "predictions").to_pandas()
    rows = test.to_pandas()
    assert found.row_id.tolist() == rows.row_id.tolist()
    np.testing.assert_allclose(found.ctcvr, found.ctr * found.cvr, rtol=1e-5)
    expected = binary_metrics(found.ctr, rows.click, rows.sample_weight, rows.user.to_numpy())
    assert ranks[0][0]["ctr"] == pytest.approx(expected, abs=1e-6)
    assert json.loads((root / "run" / "metrics.json").read_text())["tasks"]["ctr"] == pytest.approx(expected, abs=1e-6)


def test_one_rate_for_all_rows(world, tmp_path):
    """Half of the rows without a click: every figure of a job file with a rate is that with the column of it."""
    root, _, _ = world
    train = impressions(300, seed=4)
    kept = (train["click"].to_numpy() == 1) | (np.random.default_rng(4).random(300) < 0.5)
    write_split(tmp_path / "train", train.append_column("half", pa.array([0.5] * 300)).filter(pa.array(kept)))
    content = copy.deepcopy(job(root)) | {"output": str(tmp_path / "rate")}
    content["data"] |= {"train": [str(tmp_path / "train")], "validation": [], "test": [str(tmp_path / "train")]}
    content["training"]["epochs"] = 1
    found = []
    for name, given in (("rate", {"rate": 0.5}), ("column", {"column": "half"})):
        content["output"] = str(tmp_path / name)
        content["data"]["sampling"] = {"label": "click", **given, "splits": ["train", "test"]}
        found.append(alone("train", "--config", write_job(tmp_path / f"{name}.yaml", content)))
    for task in found[0]:
        assert found[0][task] == found[1][task]
    # 2 rows of each without a click, against 1 with: the rate that is measured
    rows = train.filter(pa.array(kept))
    weight = rows["sample_weight"].to_numpy() * np.where(rows["click"].to_numpy() == 1, 1, 2)
    assert found[0]["ctr"]["rate"] == pytest.approx(weight @ rows["click"].to_numpy() / weight.sum())


@pytest.mark.parametrize("task", [BinaryTask("ctr", "click"), BinaryTask("like", "like", sample_weight="age")])
def test_metrics_of_sampled_rows_are_those_of_all_rows(task):
    """With ties, groups, a rate a row and missing labels; all rows are made by repeating the zeros."""
    rng = np.random.default_rng(0)
    count = 500
    click = rng.choice([0, 1, np.nan], count, p=[0.7, 0.2, 0.1])
    rate = rng.choice([0.125, 0.25, 1.0], count)
    columns = {"click": click, "like": rng.integers(0, 2, count).astype(float), "age": rng.random(count)}
    labels = {name: columns[name].astype(np.float32) for name in ("click", "like")}
    sampling = NegativeSampling("click", column="keep")
    weights = {sampling.key: rate.astype(np.float32), "age": columns["age"].astype(np.float32)}
    prediction, group = rng.integers(1, 20, count) / 20, rng.integers(0, 30, count)
    found = task_metrics(task, prediction, labels, weights, group, sampling)
    times = np.where(click == 0, 1 / rate, 1).astype(int)
    all_rows = np.repeat(np.arange(count), times)
    all_rows = all_rows[~np.isnan(columns[task.label][all_rows])]
    weight = weights["age"][all_rows] if task.sample_weight else np.ones(len(all_rows))
    expected = binary_metrics(prediction[all_rows], labels[task.label][all_rows], weight, group[all_rows])
    assert found.pop("rows") < expected.pop("rows")
    assert found == pytest.approx(expected, rel=1e-6)


# --- what a user gets wrong


@pytest.fixture
def message(world, capsys, monkeypatch, tmp_path):
    def run(sampling, **data):
        content = copy.deepcopy(job(world[0])) | {"output": str(tmp_path / "run")}
        content["data"] |= {"sampling": sampling, **data}
        return " ".join(fails(capsys, monkeypatch, tmp_path, content).split())

    return run


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        ({"label": "click"}, "Sampling of 'click': give either rate or column, but found rate=None and column=None."),
        ({**COLUMN, "rate": 0.1}, "Sampling of 'click': give either rate or column, but found rate=0.1 and"),
        ({"label": "click", "rate": 1.5}, "rate must be the share of rows that were kept, above 0 and at most 1"),
        (
            {"label": "clik", "rate": 0.5},
            "labels: {'ctr': 'click', 'cvr': 'purchase', 'value': 'value'}; did you mean 'click'?",
        ),
        ({"label": "value", "rate": 0.5}, "task 'value' must predict it as the probability of one logit"),
        ({"label": "click", "column": "keep_rat"}, "column 'keep_rat' is missing. Found"),
        ({"label": "click", "column": "user"}, "column 'user' must hold numbers, but has type string"),
        ({"label": "click", "column": "price"}, "column 'price' must hold rates above 0 and at most 1, but found"),
        ({**COLUMN, "splits": ["train", "test"]}, "column 'keep_rate' is missing. Found"),
        ({**COLUMN, "splits": ["training"]}, "splits must be of ['train', 'validation', 'test'], but found"),
    ],
)
def test_a_wrong_declaration_has_its_sentence(message, sampling, text):
    assert text in message(sampling)


def test_rates_that_give_the_label_away_stop_the_job(message, world, tmp_path):
    table = pq.read_table(world[0] / "train")
    rate = np.where(table["click"].to_numpy() == 1, 1.0, 0.25)
    leaking = table.set_column(table.schema.names.index("keep_rate"), "keep_rate", pa.array(rate))
    write_split(tmp_path / "leaking", leaking)
    found = message(COLUMN, train=[str(tmp_path / "leaking")])
    assert "column 'keep_rate' is 1 on every row whose label is 1 and below 1 on every row whose label is 0" in found
