"""The command line explains itself."""

import pytest

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
