"""The command line explains itself."""

import json
import os
import signal
from argparse import ArgumentError
from threading import Timer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from jsonargparse import Namespace

from tests.synthetic import job, make_world, write_job
from torchrec_mtl import cli
from torchrec_mtl.arguments import check_given


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_help_explains_every_value(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run([command, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for explained in (
        "--data.batch_size BATCH_SIZE Rows a rank and step.",
        "--training.seed SEED Seeds initial parameters, shuffling and dropout.",
        "--network.trunk TRUNK Trunk class",
        "torchrec_mtl.trunks.MMoE",
        "torchrec_mtl.heads.Tower",
        "torchrec_mtl.tasks.BinaryTask",
    ):
        assert explained in text


def test_help_of_one_class(capsys):
    with pytest.raises(SystemExit):
        cli.run(["train", "--network.trunk.help", "torchrec_mtl.trunks.MMoE"])
    assert "Number of experts" in capsys.readouterr().out


@pytest.mark.parametrize("position", ["before", "after"])
def test_a_value_on_the_command_line_wins_wherever_it_stands(position, tmp_path, capsys):
    (tmp_path / "train").mkdir()
    path = make_world(tmp_path / "world")
    value, config = ["--training.epochs=17"], ["--config", path]
    with pytest.raises(SystemExit):
        cli.run(["train", *(value + config if position == "before" else config + value), "--print_config"])
    assert "epochs: 17" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["apart", "joined"])
def test_a_list_on_the_command_line_inherits_nothing_from_the_files(form, tmp_path, capsys):
    (tmp_path / "train").mkdir()
    content = job(tmp_path)
    content["features"]["dense"] = [{"name": "price", "fill": 8.0}]
    content["tasks"][2]["init_args"]["weight"] = 0.0  # the third task: cvr, in the space of clicks
    path = write_job(tmp_path / "job.yaml", content)
    tasks = [
        {"class_path": "torchrec_mtl.tasks.BinaryTask", "init_args": {"name": n, "label": "click"}} for n in "abcd"
    ]
    given = {"--features.dense": "[{name: other}]", "--tasks": json.dumps(tasks)}
    pairs = [[f"{k}={v}"] if form == "joined" else [k, v] for k, v in given.items()]
    with pytest.raises(SystemExit):
        cli.run(["train", "--config", path, *(part for pair in pairs for part in pair), "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["features"]["dense"] == [{"name": "other", "fill": None}]
    third = found["tasks"][2]["init_args"]
    assert (third["name"], third["label_space"], third["weight"]) == ("c", None, 1.0)


def test_help_of_vocab(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(["vocab", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for explained in (
        "Values that occur less often are left out.",
        "{vocabulary: columns that share it}",
        "Whether existing files may be replaced.",
    ):
        assert explained in text


def test_vocab_writes_a_file_a_vocabulary(tmp_path):
    rows = {"shop": ["a", "b", "a"], "recent": [["c"], [], ["c"]], "brand": [1, 2, 2]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    out = tmp_path / "vocabulary"
    columns = "--columns={shop: [shop, recent], brand: [brand]}"
    found = cli.run(["vocab", f"--rows=[{tmp_path}]", columns, "--min_count", "2", "--max_size=1", f"--output={out}"])
    assert pq.read_table(out / "shop.parquet")["value"].to_pylist() == ["a"]
    assert pq.read_table(out / "brand.parquet")["value"].to_pylist() == [2]
    assert found["shop"].rows == found["brand"].rows == 2


def test_an_error_of_vocab_is_a_sentence(tmp_path, monkeypatch, capsys):
    arguments = ["vocab", f"--rows=[{tmp_path}]", "--columns={a: [b]}", "--output=x"]
    monkeypatch.setattr("sys.argv", ["torchrec-mtl", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert f"torchrec-mtl: error: No Parquet file at '{tmp_path}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--network.trunk.init_args.num_expert", "4"], "MMoE has no argument 'num_expert'"),
        (["--network.trunk.num_expert=4"], "MMoE has no argument 'num_expert'"),
        (["--network.trunk", "PLE", "--network.trunk.layers=[4]"], "PLE has no argument 'layers'. It takes levels"),
        (["--network.trunk", "torchrec_mtl.trunks.PEL"], "'torchrec_mtl.trunks' has no 'PEL'"),
        (["--trainning.epochs", "2"], "A job has no 'trainning'"),
        (["--training.epoch=2"], "training has no 'epoch'"),
        (["--network.trunk.help", "MMoEE"], "network.trunk: no Trunk is called 'MMoEE'"),
        (["--network.towers.help", "Towr"], "network.towers: no Head is called 'Towr'"),
        (["--tasks=[{class_path: BinaryTsk}]"], "tasks[0]: no Task is called 'BinaryTsk'"),
    ],
)
def test_an_unknown_name_on_the_command_line(given, expected, tmp_path):
    path = write_job(tmp_path / "job.yaml", job(tmp_path))
    for arguments in ([*given, "--config", path], ["--config", path, *given]):
        with pytest.raises(ArgumentError) as error:
            cli.run(["train", *arguments])
        assert expected in str(error.value)


def test_known_names_on_the_command_line_are_no_mistakes(tmp_path):
    path = write_job(tmp_path / "job.yaml", job(tmp_path))
    trunk = ["--network.trunk=PLE", "--network.trunk.levels=[[4]]", "--network.trunk.init_args.options.dropout=0.1"]
    others = ["--training.dense_optimizer.lr=0.1", "--training.table_optimizer.lr", "0.1", "--data.train+=a"]
    own = ["--split=test", "--checkpoint", "a", "--data.funnel.help"]
    check_given(["evaluate", "--config", path, *trunk, *others, *own])


@pytest.mark.parametrize("given", [["--network.trunk=PLE"], ["--network.trunk.class_path", "torchrec_mtl.trunks.PLE"]])
def test_what_another_class_does_not_take_over_is_said(given, tmp_path):
    content = job(tmp_path)
    content["network"]["trunk"] = {
        "class_path": "torchrec_mtl.trunks.MMoE",
        "init_args": {"num_experts": 3, "layers": [4], "gate_dropout": 0.5},
    }
    path = write_job(tmp_path / "job.yaml", content)
    (replaced,) = check_given(["train", "--config", path, *given])
    values = Namespace(network=Namespace(trunk=Namespace(init_args=Namespace(levels=[[4]], gate_dropout=0.5))))
    assert replaced.left(values) == (
        "network.trunk: layers, num_experts of the job file's torchrec_mtl.trunks.MMoE are not taken over: the class "
        "given on the command line has no such argument."
    )
    assert check_given(["train", "--config", path, "--network.trunk=torchrec_mtl.trunks.MMoE"]) == []


def page_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.run(["train", *arguments])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "name", "explained"),
    [
        ("network.trunk", "PLE", "Progressive layered extraction: a task's gate mixes its own experts and the shared"),
        ("network.trunk", "PLE", "--network.trunk.options.activation ACTIVATION"),
        ("network.trunk", "STEM", "--network.trunk.options.norm NORM"),
        ("network.towers", "Tower", "An MLP from a task's vector to its output"),
        ("network.towers", "Tower", "--network.towers.hidden"),
    ],
)
def test_the_page_of_a_class_can_be_read(place, name, explained, capsys):
    text = page_of(capsys, f"--{place}.help", name)
    assert len(text.splitlines()) <= 60
    assert explained in text
    assert "torch.nn.GELU" not in text, "no list of all modules that are imported"
    assert "required" not in text, "what a class must be given the job gives it"


def test_the_pages_name_the_classes_of_this_project(capsys):
    text = page_of(capsys, "--help")
    assert "torchrec_mtl.trunks.PLE" in text
    assert "torch.optim.Adam" in text


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_rank_that_loses_another_may_be_about_to_be_interrupted(interrupted, monkeypatch, capsys):
    def lost():
        if interrupted:
            Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("sys.argv", ["torchrec-mtl", "train"])
    monkeypatch.setattr(cli, "run", lost)
    with pytest.raises(SystemExit if interrupted else RuntimeError) as stop:
        cli.main()
    assert getattr(stop.value, "code", None) == (130 if interrupted else None)
    assert capsys.readouterr().err == "", "rank 0 says it"
