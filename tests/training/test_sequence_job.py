"""A job with behaviour sequences, from files to predictions, on two ranks."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.synthetic import job, write_job, write_split
from torchrec_mtl import cli
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed

ITEMS, GAPS = 40, [1.0, 7.0]


def impressions(rows, seed):
    """A click needs the candidate's item among the last three of the user: only the sequence tells."""
    rng = np.random.default_rng(seed)
    past = [rng.integers(0, ITEMS, n).tolist() for n in rng.integers(0, 6, rows)]
    known = rng.random(rows) < 0.5
    item = [int(rng.choice(p)) if p and k else int(rng.integers(0, ITEMS)) for p, k in zip(past, known, strict=True)]
    click = np.array([i in p[-3:] for i, p in zip(item, past, strict=True)])
    purchase = click & (rng.random(rows) < 0.5)
    return pa.table(
        {
            "row_id": pa.array(np.arange(rows) + 100_000 * seed),
            "user": pa.array([f"u{u}" for u in rng.integers(0, 30, rows)]),
            "shop": pa.array(rng.integers(0, 50, rows), pa.int32()),
            "item": pa.array(item, pa.int32()),
            "past_item": pa.array([p or None for p in past], pa.list_(pa.int32())),
            "past_days": pa.array([rng.exponential(5, len(p)).tolist() for p in past], pa.list_(pa.float32())),
            "price": pa.array(rng.normal(size=rows), pa.float32()),
            "click": pa.array(click.astype(np.int8)),
            "purchase": pa.array(purchase.astype(np.int8)),
            "value": pa.array(np.where(purchase, 1 + rng.random(rows), np.nan), pa.float32(), from_pandas=True),
            "sample_weight": pa.array(np.ones(rows), pa.float32()),
        }
    )


def make_job(root, attention="TargetAttention", per_task=False, **changes):
    for split, rows, seed in (("train", 3000, 1), ("validation", 200, 2), ("test", 400, 3)):
        if not (root / split).exists():
            write_split(root / split, impressions(rows, seed))
    content = job(root)
    content["features"] = {
        "tables": [
            {"name": "shop", "rows": 50, "dimension": 8},
            {"name": "item", "rows": ITEMS, "dimension": 8},
            {"name": "gap", "rows": 3, "dimension": 8},
        ],
        "sparse": [{"name": "shop"}, {"name": "item"}],
        "dense": [{"name": "price"}],
        "sequences": [
            {
                "name": "bought",
                "items": [{"name": "past_item", "table": "item"}],
                "properties": [{"name": "past_days", "table": "gap", "boundaries": GAPS}],
                "query": ["item"],
                "user": ["shop"],
                "max_length": 3,
            }
        ],
    }
    content["network"]["attention"] = {"bought": {"class_path": f"torchrec_mtl.sequences.{attention}"}}
    content["network"]["attention_per_task"] = ["bought"] if per_task else []
    content["training"] |= {
        "epochs": 6,
        "sharding": {"item": {"types": ["row_wise"]}},
        "table_optimizer": {"lr": 0.2},
    }
    return write_job(root / "job.yaml", content | changes)


def run_cli(commands):
    with distributed():  # one process group for all commands
        return [cli.run(command) for command in commands]


@pytest.mark.parametrize(
    ("attention", "per_task"),
    [
        pytest.param("TargetAttention", False, marks=pytest.mark.slow),
        ("TargetAttention", True),
        pytest.param("DUPN", False, marks=pytest.mark.slow),
    ],
)
def test_a_job_learns_what_only_the_sequence_tells(tmp_path, attention, per_task):
    path = make_job(tmp_path, attention, per_task)
    found = cli.run(["train", "--config", path])
    assert found["ctr"]["auc"] > 0.8, "without the sequence the click is a coin's toss among known items"


def test_without_its_sequence_the_job_knows_little(tmp_path):
    """Guards the test above."""
    path = make_job(tmp_path, "MeanPooling")
    arguments = ["--features.sequences", "[]", "--network.attention", "{}", "--network.attention_per_task", "[]"]
    tables = json.dumps([{"name": name, "rows": 50, "dimension": 8} for name in ("shop", "item")])
    found = cli.run(["train", "--config", path, *arguments, "--features.tables", tables])
    assert found["ctr"]["auc"] < 0.65


@pytest.mark.slow
def test_two_ranks_train_evaluate_and_predict(tmp_path):
    path = make_job(tmp_path)
    predict = ["--rows", f"[{tmp_path}/test]", "--predictions", str(tmp_path / "out")]
    commands = [["train", "--config", path], ["evaluate", "--config", path], ["predict", "--config", path, *predict]]
    trained, measured, _ = run_on_ranks(run_cli, 2, commands)[0]
    assert trained["ctr"]["auc"] > 0.8
    assert measured["ctr"]["auc"] == pytest.approx(trained["ctr"]["auc"], abs=1e-6)
    alone = tmp_path / "alone"
    cli.run(["predict", "--config", path, "--rows", f"[{tmp_path}/test]", "--predictions", str(alone)])
    predictions = [pq.read_table(folder).sort_by("row_id") for folder in (tmp_path / "out", alone)]
    assert predictions[0]["row_id"].to_pylist() == pq.read_table(tmp_path / "test")["row_id"].to_pylist()
    np.testing.assert_allclose(predictions[0]["ctr"], predictions[1]["ctr"], atol=1e-6)


@pytest.mark.slow
def test_all_tables_may_lie_in_sequences(tmp_path):
    path = make_job(tmp_path)
    tables = [{"name": "item", "rows": ITEMS, "dimension": 8}]
    sequence = {"name": "bought", "items": [{"name": "past_item", "table": "item"}], "query": ["item"]}
    features = {"tables": tables, "sparse": [{"name": "item"}], "dense": [{"name": "price"}], "sequences": [sequence]}
    path = make_job(tmp_path, features=features)
    found = cli.run(["train", "--config", path])
    assert found["ctr"]["auc"] > 0.7


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--network.attention", "{}"], r"one attention class for each sequence .* \['bought'\], but found \[\]"),
        (["--network.only", "{item: [cvr]}"], "'item' is for .* only, but sequence 'bought' has it as query or user"),
        (["--network.attention_per_task", "[sold]"], r"attention_per_task names \['sold'\], but the sequences are"),
        (
            ["--training.sharding", '{"item": {"types": ["data_parallel"]}}'],
            "Table 'item' is read by a behaviour sequence, and TorchRec shards such tables by .*found",
        ),
        (
            ["--training.table_optimizer.optimizer", "torch.optim.Adam", "--training.sharding", "{}"],
            "Adam on CPU needs replicated .* tables, which tables .* of behaviour sequences cannot be",
        ),
    ],
)
def test_a_job_that_cannot_work_is_refused(tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        cli.run(["train", "--config", make_job(tmp_path), *arguments])


def test_steps_that_are_not_lists_are_refused(tmp_path):
    path = make_job(tmp_path)
    for file in (tmp_path / "train").iterdir():
        table = pq.read_table(file)
        place = table.schema.get_field_index("past_days")
        pq.write_table(table.set_column(place, "past_days", table["price"]), file)
    text = "column 'past_days' must hold lists, one item a step of sequence 'bought', but has type float"
    with pytest.raises(ValueError, match=text):
        cli.run(["train", "--config", path])
