"""The command line explains itself."""

import pytest

from tests.synthetic import make_world
from torchrec_mtl import cli


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
