"""Every mistake of a user has a sentence of its own, before any training step."""

import copy
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.synthetic import impressions, job, make_world, write_job, write_split
from torchrec_mtl import cli
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.job_file import overridden


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Good data, and one epoch of a good job to have a checkpoint."""
    root = tmp_path_factory.mktemp("world")
    path = make_world(root, train_rows=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        cli.run(["train", "--config", path, "--training.epochs=1", "--training.checkpoint_every=4"])
    return root


@pytest.fixture
def content(world, tmp_path):
    found = copy.deepcopy(job(world))
    found["output"] = str(tmp_path / "run")
    return found


def fails(capsys, monkeypatch, tmp_path, content, *arguments, command="train"):
    """Runs a command as a user would and returns what it says when it fails."""
    monkeypatch.delenv("RANK", raising=False)
    path = write_job(tmp_path / "job.yaml", content)
    monkeypatch.setattr("sys.argv", ["torchrec-mtl", command, "--config", path, *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code not in (0, None)
    assert not (tmp_path / "run" / "tensorboard").exists(), "it must fail before the first step"
    return capsys.readouterr().err


@pytest.fixture
def message(capsys, monkeypatch, tmp_path, content):
    return lambda *arguments, **options: fails(capsys, monkeypatch, tmp_path, content, *arguments, **options)


def test_unknown_column(message, content):
    content["features"]["dense"].append({"name": "prise"})
    assert "column 'prise' is missing" in (text := message())
    assert "did you mean 'price'?" in text


def test_wrong_type(message, content):
    content["features"]["dense"].append({"name": "user"})
    assert "column 'user' must hold numbers, but has type string" in message()


def replaced(table, name, values):
    return table.set_column(table.schema.names.index(name), name, values)


def bad_train(content, tmp_path, table):
    write_split(tmp_path / "bad", table)
    content["data"]["train"] = [str(tmp_path / "bad")]


def test_label_other_than_0_and_1(message, content, tmp_path):
    table = impressions(100)
    bad_train(content, tmp_path, replaced(table, "click", pa.array(np.full(100, 2.0))))
    assert "label column 'click' must hold 0 or 1" in (text := message())
    assert "but found 2" in text


def broken(rows=100):
    table = impressions(rows)
    click = table["click"].to_numpy().copy()
    purchased = np.flatnonzero(table["purchase"].to_numpy())[:3]
    click[purchased] = 0
    return replaced(table, "click", pa.array(click)), 3


def test_purchase_without_click_stops_under_error(message, content, tmp_path):
    table, count = broken()
    bad_train(content, tmp_path, table)
    assert f"{count} of 100 rows break the funnel click -> purchase" in (text := message())
    assert "drop" in text
    assert "repair" in text
    assert "keep" in text


@pytest.mark.parametrize(
    ("policy", "treatment"),
    [("drop", "dropped"), ("repair", "repaired"), ("keep", "kept")],
)
def test_purchase_without_click_is_counted_under_other_policies(
    policy, treatment, content, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("RANK", raising=False)
    table, count = broken()
    bad_train(content, tmp_path, table)
    content["data"]["test"] = content["data"]["train"]
    content["data"]["funnel"]["policy"] = policy
    found = cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content)])
    assert f"{count} rows of train break the funnel and were {treatment}" in capsys.readouterr().out
    assert found["ctr"]["rows"] == (100 - count if policy == "drop" else 100)
    clicks = table["click"].to_numpy() == 1
    bought = table["purchase"].to_numpy() == 1
    # under repair a purchase is a click: measured among the clicks, and one in the click rate
    assert found["cvr"]["rows"] == ((clicks | bought).sum() if policy == "repair" else clicks.sum())


@pytest.mark.parametrize("wrong", [-1, 50])
def test_id_out_of_range(message, content, tmp_path, wrong):
    ids = np.arange(100) % 50
    ids[7] = wrong
    bad_train(content, tmp_path, replaced(impressions(100), "shop", pa.array(ids)))
    assert f"Feature 'shop': id {wrong} lies outside table 'shop' with rows [0, 50)" in (text := message())
    assert "out_of_range: hash" in text


def test_ids_out_of_range_are_hashed_when_the_feature_says_so(content, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    bad_train(content, tmp_path, replaced(impressions(100), "shop", pa.array(np.arange(100) - 3 * 10**15)))
    content["features"]["sparse"][0]["out_of_range"] = "hash"
    for split in ("validation", "test"):
        content["data"][split] = []
    cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content)])
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_empty_file(message, content, tmp_path):
    (tmp_path / "empty.parquet").touch()
    content["data"]["train"] = [str(tmp_path / "empty.parquet")]
    assert "empty.parquet as Parquet: the file is empty" in message()


def test_no_rows(message, content, tmp_path):
    pq.write_table(impressions(4).slice(0, 0), tmp_path / "none.parquet")
    content["data"]["train"] = [str(tmp_path / "none.parquet")]
    assert "No rows in" in message()


def test_no_such_file(message, content, tmp_path):
    content["data"]["train"] = [str(tmp_path / "nowhere")]
    assert f"No Parquet file at '{tmp_path}/nowhere'" in message()


def test_no_row_in_a_label_space(message, content, tmp_path):
    nothing = pa.array(np.zeros(100, np.int8))
    table = replaced(replaced(impressions(100), "click", nothing), "purchase", nothing)
    bad_train(content, tmp_path, table)
    assert "Task 'cvr': none of the 100 rows lies in its label space" in (text := message())
    assert "'click' is 1" in text


def test_unknown_key_in_the_job_file(message, content):
    content["data"]["batchsize"] = 3
    assert "data has no 'batchsize'" in (text := message())
    assert "did you mean 'batch_size'?" in text


def test_unknown_class(message, content):
    content["network"]["trunk"] = {"class_path": "torchrec_mtl.trunks.MMoEE"}
    text = message()
    assert "network.trunk: 'torchrec_mtl.trunks' has no 'MMoEE'" in text
    assert "did you mean 'MMoE'?" in text
    assert "usage:" not in text, "the sentence must not drown in the list of options"


def test_unknown_init_arg(message, content):
    content["network"]["trunk"]["init_args"]["experts"] = 3
    assert "network.trunk: MMoE has no argument 'experts'. It takes num_experts, layers" in message()


def test_task_that_names_no_output(message, content):
    content["tasks"][0]["init_args"]["name"] = "ctrr"
    assert "Task 'ctrr' names no output" in (text := message())
    assert "did you mean 'ctr'?" in text


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        ("torchrec.optim.RowWiseAdagrad", {"weight_decay": 0.1}, "silently ignores ['weight_decay']"),
        ("torch.optim.SGD", {"momentum": 0.9}, "silently ignores ['momentum']"),
        ("torchrec.optim.LAMB", {}, "LAMB has no CPU kernel"),
        ("torch.optim.RMSprop", {}, "FBGEMM has no RMSprop"),
    ],
)
def test_an_optimizer_that_the_platform_would_ignore(message, content, optimizer, options, expected):
    content["training"]["table_optimizer"] = {"optimizer": optimizer, "lr": 0.1, "options": options}
    assert expected in message()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            {"training.dense_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": -1.0}}},
            "training.dense_optimizer: Invalid learning rate: -1.0",
        ),
        ({"network.only": {"price": ["vlue"]}}, "network.only: 'price' is for tower 'vlue', which is not there"),
        (
            {"network.trunk.init_args.layers": [64, -32]},
            "MMoE, layers: Layer widths must be at least 1, but found [64, -32]",
        ),
        (
            {"network.trunk": {"class_path": "PLE", "init_args": {"levels": [[8], [4, 0]]}}},
            "PLE, levels: Layer widths must be at least 1, but found [4, 0]",
        ),
        (
            {"network.towers.ctr": {"class_path": "torchrec_mtl.heads.Tower", "init_args": {"hidden": [-16]}}},
            "network.towers.ctr: Layer widths must be at least 1, but found [-16]",
        ),
    ],
)
def test_a_wrong_number_has_its_place(message, content, overrides, expected):
    content.update(overridden(content, overrides))
    assert expected in message()


def test_the_tasks_name_is_told_before_its_calibration(message, content):
    content["tasks"][0]["init_args"]["name"] = "ctrr"
    content["tasks"][-1] = {
        "class_path": "torchrec_mtl.tasks.RegressionTask",
        "init_args": {"name": "value", "label": "value", "label_space": "purchase", "standardise": True},
    }
    content["calibration"] = {"ctr": {"class_path": "torchrec_mtl.calibration.PlattScaling"}}
    assert "Task 'ctrr' names no output" in (text := message())
    assert "did you mean 'ctr'?" in text
    assert "Calibration" not in text


def test_sharding_of_an_unknown_table(message, content):
    content["training"]["sharding"] = {"shopp": {"types": ["row_wise"]}}
    assert "Sharding constraints name unknown tables ['shopp']" in message()


def test_grid_shard_is_refused(message, content):
    content["training"]["sharding"] = {"shop": {"types": ["grid_shard"]}}
    assert "grid_shard turns mean pooling into a sum" in message()


def test_adam_on_cpu_needs_replicated_tables(message, content):
    content["training"]["table_optimizer"] = {"optimizer": "torch.optim.Adam", "lr": 0.01}
    assert "Adam on CPU takes the dense route, which needs data_parallel tables" in message()


def test_a_run_is_not_overwritten(message, content, world):
    content["output"] = str(world / "run")
    assert "already holds a run" in (text := message())
    assert "--resume" in text


def test_no_checkpoint(message, tmp_path):
    assert f"No checkpoint at '{tmp_path}'" in message("--checkpoint", str(tmp_path), command="evaluate")


def damaged(world, tmp_path, damage):
    """A copy of the newest checkpoint, damaged."""
    import shutil

    source = sorted((world / "run" / "checkpoints").glob("step_*"))[-1]
    target = tmp_path / "run" / "checkpoints" / source.name
    shutil.copytree(source, target)
    damage(target)
    return target


def cut(path):
    for file in path.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 10])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: (path / "meta.json").write_text("{"), "meta.json is damaged"),
        (lambda path: (path / ".metadata").unlink(), "it is damaged or holds another model"),
        (cut, "it is damaged or holds another model"),
        (lambda path: (path / "random_0.pt").unlink(), "random_0.pt is missing or damaged"),
        (lambda path: (path / "random_0.pt").write_bytes(b"no"), "random_0.pt is missing or damaged"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_unreadable_checkpoint(message, world, tmp_path, damage, expected, command):
    if command == "evaluate" and "random" in expected:
        return  # evaluating draws nothing at random and does not read it
    path = damaged(world, tmp_path, damage)
    arguments = ["--resume", "--training.epochs=3"] if command == "train" else ["--checkpoint", str(path)]
    text = message(*arguments, command=command)
    assert str(path) in text
    assert expected in text


def test_checkpoint_of_another_model(message, content, world):
    content["network"]["trunk"]["init_args"]["num_experts"] = 3
    text = message("--checkpoint", str(world / "run" / "checkpoints"), command="evaluate")
    assert "holds another model" in text
    assert "trunk.levels.0.experts" in text


def test_checkpoint_of_another_table_optimizer(message, content, world, tmp_path):
    damaged(world, tmp_path, lambda path: None)
    content["training"]["table_optimizer"] = {"optimizer": "torch.optim.SGD", "lr": 0.1}
    text = message("--resume", "--training.epochs=3")
    assert "holds the state of RowWiseAdagrad for the tables, but this run uses SGD" in text


def test_checkpoint_of_another_sharding(message, content, world, tmp_path):
    damaged(world, tmp_path, lambda path: None)
    content["training"]["sharding"]["shop"] = {"types": ["data_parallel"]}
    text = message("--resume", "--training.epochs=3")
    assert "holds table 'shop' sharded row_wise, but this run plans data_parallel" in text


@pytest.mark.parametrize("change", ["--training.seed=5", "--data.shuffle_rows=64"])
def test_a_checkpoint_in_the_middle_of_an_epoch_needs_the_same_order_of_rows(message, world, tmp_path, change):
    def into_the_middle(path):
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps({**meta, "epoch": 0, "batch": 4}))

    damaged(world, tmp_path, into_the_middle)
    text = message("--resume", "--training.epochs=3", change)
    assert "but this run reads the rows in another order" in text
    assert "training.seed, data.shuffle_rows or the training files have changed" in text


def test_a_key_named_like_a_task(message, content):
    content["data"]["keys"] = ["row_id", "value"]
    assert "['value'] are both key columns and tasks" in message()


def test_a_batch_of_no_rows(message):
    assert "data.batch_size must be at least 1, but found 0" in message("--data.batch_size=0")


def test_a_negative_seed(message):
    assert "training.seed must be at least 0, but found -1" in message("--training.seed=-1")


def test_a_split_that_the_job_does_not_name(message, content, world):
    content["data"]["validation"] = []
    text = message("--split", "validation", "--checkpoint", str(world / "run" / "checkpoints"), command="evaluate")
    assert "The job names no files for the split 'validation'" in text


def test_predictions_do_not_overwrite(message, world):
    arguments = ["--rows", f"[{world}/test]", "--predictions", str(world / "test")]
    text = message(*arguments, "--checkpoint", str(world / "run" / "checkpoints"), command="predict")
    assert "already holds Parquet files: give an output directory that is empty or new" in text


def resume_in_the_middle(path):
    try:
        cli.run(["train", "--config", path, "--resume", "--training.epochs=3"])
    except ValueError as error:
        return str(error)


def test_a_world_size_that_the_checkpoint_cannot_take(content, world, tmp_path):
    """One rank stopped in the middle of an epoch: two ranks cannot tell which rows are left."""

    def into_the_middle(path):
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps({**meta, "epoch": 0, "batch": 4}))

    damaged(world, tmp_path, into_the_middle)
    for text in run_on_ranks(resume_in_the_middle, 2, write_job(tmp_path / "job.yaml", content)):
        assert "stands in the middle of epoch 1, read by 1 ranks with 32 rows each; this run has 2 ranks" in text
        assert "Resume with 1 ranks and batch size 32" in text


def one_rank_has_bad_labels(path):
    try:
        cli.run(["train", "--config", path])
    except ValueError as error:
        return str(error)


def test_all_ranks_stop_when_one_finds_bad_data(content, tmp_path):
    """The second row group, which rank 1 checks, holds a label of 2: rank 0 must not wait for ever."""
    table = impressions(128)
    click = table["click"].to_numpy().astype(float)
    click[100] = 2
    table = replaced(table, "click", pa.array(click))
    write_split(tmp_path / "bad", table, files=1, row_group_size=64)
    content["data"]["train"] = [str(tmp_path / "bad")]
    first, second = run_on_ranks(one_rank_has_bad_labels, 2, write_job(tmp_path / "job.yaml", content))
    assert "must hold 0 or 1" in second
    assert first == f"Rank 1 failed: {second}"


def one_rank_meets_a_null(path):
    try:
        cli.run(["train", "--config", path])
    except ValueError as error:
        return str(error)


def test_all_ranks_stop_when_one_meets_bad_rows_in_training(content, tmp_path):
    """What the first look does not see: a null in a dense column of the second row group."""
    table = impressions(128)
    price = table["price"].to_pylist()
    price[100] = None
    write_split(tmp_path / "bad", replaced(table, "price", pa.array(price, pa.float32())), files=1, row_group_size=64)
    content["data"]["train"] = [str(tmp_path / "bad")]
    del content["network"]["dense"]  # fitting the encoder would meet it first
    texts = run_on_ranks(one_rank_meets_a_null, 2, write_job(tmp_path / "job.yaml", content))
    assert sorted(texts)[0] == "Another rank could not read its next batch; its own message says why."
    assert "Dense feature 'price': 1 null or NaN values in one batch" in sorted(texts)[1]
    assert f"First found in row group 1 of {tmp_path}/bad/part-0.parquet." in sorted(texts)[1]
