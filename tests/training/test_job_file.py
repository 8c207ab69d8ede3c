"""A job from content, and contents with values replaced."""

import copy

import pytest

from tests.synthetic import job, make_world
from torchrec_mtl import cli
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.job_file import overridden, read_job
from torchrec_mtl.training.loop import train

CONTENT = {"network": {"trunk": {"class_path": "A", "init_args": {"layers": [8]}}, "links": []}, "output": "x"}


def test_a_value_is_replaced_whole_and_the_content_stays():
    before = copy.deepcopy(CONTENT)
    found = overridden(CONTENT, {"network.trunk": {"class_path": "B"}, "training.dense_optimizer.lr": 0.1})
    assert found["network"] == {"trunk": {"class_path": "B"}, "links": []}, "no init_args of A are left"
    assert found["training"] == {"dense_optimizer": {"lr": 0.1}}
    assert before == CONTENT


def test_overrides_are_applied_in_their_order():
    overrides = {"network.trunk": {"class_path": "B"}, "network.trunk.init_args.options.dropout": 0.5}
    found = overridden(CONTENT, overrides)
    assert found["network"]["trunk"] == {"class_path": "B", "init_args": {"options": {"dropout": 0.5}}}
    assert overrides["network.trunk"] == {"class_path": "B"}, "a list of overrides serves many jobs"


@pytest.mark.parametrize("name", ["network.links.0", "output.path"])
def test_a_name_through_no_mapping_is_refused(name):
    part = name.split(".")[-2]
    with pytest.raises(ValueError, match=rf"'{name}' cannot be set: '{part}' is no mapping but .*replace a list whole"):
        overridden(CONTENT, {name: 1})


def test_it_reads_what_the_command_line_reads(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    path = make_world(tmp_path)
    by_command = cli.run(["train", "--config", path, "--training.epochs=1", f"--output={tmp_path / 'a'}"])
    with distributed() as runtime:
        content = overridden(job(tmp_path), {"training.epochs": 1, "output": str(tmp_path / "b")})
        by_content = train(read_job(content), runtime)
    assert {task: pytest.approx(each, nan_ok=True) for task, each in by_content.items()} == by_command


def test_a_mistake_is_an_error_with_its_place(tmp_path):
    content = job(tmp_path)
    with pytest.raises(ValueError, match=r"network.trunk: MMoE has no argument 'layerz'"):
        read_job(overridden(content, {"network.trunk.init_args.layerz": [8]}))
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        read_job(overridden(content, {"training.epochs": 0}))
