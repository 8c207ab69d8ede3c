"""Checkpoints are whole or not there, and only the newest are kept."""

import json

from tests.synthetic import make_world
from torchrec_mtl import cli
from torchrec_mtl.training import checkpoint


def test_the_newest_are_kept_and_drafts_are_no_checkpoints(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    job = make_world(tmp_path, train_rows=200)
    checkpoints = tmp_path / "run" / "checkpoints"
    draft = checkpoints / ".step_00000001.part"  # what a run that was killed in a save leaves
    draft.mkdir(parents=True)
    (draft / "meta.json").write_text("{")
    # 200 rows in batches of 32: 7 steps an epoch, 14 in all; every second step, and each epoch's last
    cli.run(["train", "--config", job, "--training.checkpoint_every=2", "--training.keep=3"])
    found = checkpoint.checkpoints(checkpoints)
    assert [path.name for path in found] == ["step_00000010", "step_00000012", "step_00000014"]
    assert sorted(path.name for path in checkpoints.iterdir()) == [path.name for path in found]
    assert checkpoint.find(checkpoints) == found[-1]
    last = json.loads((found[-1] / "meta.json").read_text())
    assert (last["step"], last["epoch"], last["batch"]) == (14, 2, 0), "an epoch's end is saved as such, once"


def test_a_half_removed_checkpoint_is_none(tmp_path):
    for step in (1, 2):
        (tmp_path / f"step_{step:08d}").mkdir()
    (tmp_path / "step_00000001" / "meta.json").write_text("{}")
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step_00000001"]
