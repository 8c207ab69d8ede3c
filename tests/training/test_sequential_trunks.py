"""ESMM jobs whose trunks run along the funnel, from the job file to the figures."""

import copy

import pytest

from tests.synthetic import job, make_world, write_job
from tests.training.test_bad_input import fails
from torchrec_mtl import cli

TRUNKS = {
    "AITM": {"layers": [32, 16], "options": {"dropout": 0.1}},
    "DBMTL": {"bottom_layers": [32], "task_layers": [16], "relation_layers": [16]},
    "HTLNet": {"layers": [32, 16], "label_features": 4, "annealing": {"start": 2.0, "decay": 0.7, "every": 20}},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    make_world(root, train_rows=2000)
    return root


def with_trunk(world, output, name):
    content = copy.deepcopy(job(world, output=str(output)))
    content["network"]["trunk"] = {"class_path": f"torchrec_mtl.trunks.{name}", "init_args": TRUNKS[name]}
    content["training"]["epochs"] = 3
    return content


@pytest.mark.parametrize(
    "name", ["AITM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DBMTL", "HTLNet"))]
)
def test_an_esmm_job_trains_and_its_checkpoint_gives_the_same_figures(world, tmp_path, name, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    path = write_job(tmp_path / "job.yaml", with_trunk(world, tmp_path / "run", name))
    figures = cli.run(["train", "--config", path])
    assert figures["ctr"]["auc"] > 0.7, "clicks depend on shop and price; chance is 0.5"
    assert figures["ctr"]["ne"] < 0.9, "always saying the base rate gives 1"
    assert 0.75 < figures["ctcvr"]["calibration"] < 1.33, "two clicks of five become purchases, whatever the row"
    # HTLNet reads the temperature from the number of steps, also when it is evaluated
    found = cli.run(["evaluate", "--config", path])
    for task, values in figures.items():
        assert found[task] == pytest.approx(values, nan_ok=True), task


def test_towers_in_another_order_are_refused(world, tmp_path, monkeypatch, capsys):
    content = with_trunk(world, tmp_path / "run", "AITM")
    towers = content["network"]["towers"]
    content["network"]["towers"] = {"amount": towers.pop("value"), **towers}
    content["tasks"][3]["init_args"]["name"] = "amount"
    text = " ".join(fails(capsys, monkeypatch, tmp_path, content).split())
    assert (
        "AITM passes information from tower to tower in their order, but in ['amount', 'ctr', 'cvr'] tower 'amount' "
        "does not come after 'ctr', as a continuous task must. Declare the towers in the order ['ctr', 'cvr', 'amount']"
    ) in text
