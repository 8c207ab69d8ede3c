"""Jobs that start from checkpoints of other tasks, run for real on one and two ranks."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.ranks import run_on_ranks
from tests.synthetic import SHOPS, impressions, job, write_job, write_split
from tests.training.test_loop import state
from torchrec_mtl import cli
from torchrec_mtl.training.distributed import distributed

BINARY = "torchrec_mtl.tasks.BinaryTask"
TRUNKS = {
    "MMoE": {"num_experts": 3, "layers": [8]},
    "PLE": {"levels": [[8]], "shared_experts": 1, "task_experts": 2},
}


def task(name, label="click", kind=BINARY, **arguments):
    return {"class_path": kind, "init_args": {"name": name, "label": label, **arguments}}


def content(root, towers, name, trunk="MMoE", hidden=8, **training):
    """A job with a binary task a tower, and no links."""
    base = job(root)
    tower = {"class_path": "torchrec_mtl.heads.Tower", "init_args": {"hidden": [hidden]}}
    arguments = TRUNKS.get(trunk, {"layers": [8]})
    base["network"] = {
        "trunk": {"class_path": f"torchrec_mtl.trunks.{trunk}", "init_args": arguments},
        "towers": dict.fromkeys(towers, tower),
        "dense": base["network"]["dense"],
    }
    base["tasks"] = [task(each, "purchase" if "cvr" in each else "click") for each in towers]
    base["training"] |= {"epochs": 1, **training}
    base["data"] |= {"funnel": None, "group": None}
    return base | {"output": str(root / name)}


def write(root, towers, name, **arguments):
    return write_job(root / f"{name}.yaml", content(root, towers, name, **arguments))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Splits, and finished runs of three tasks with different trunks, trained on two ranks."""
    root = tmp_path_factory.mktemp("world")
    write_split(root / "train", impressions(200, seed=1))
    write_split(root / "validation", impressions(60, seed=2))
    write_split(root / "test", impressions(61, seed=3), files=1)
    jobs = [write(root, ["ctr", "cvr", "like"], f"old_{trunk}", trunk=trunk) for trunk in (*TRUNKS, "SharedBottom")]
    run_on_ranks(train_all, 2, jobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        for trunk, path in zip((*TRUNKS, "SharedBottom"), jobs, strict=True):
            predictions(root, path, f"old_{trunk}")
    return root


def train_all(jobs):
    with distributed():
        for each in jobs:
            cli.run(["train", "--config", each])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)


def predictions(root, path, name):
    """``{task: [rows]}`` of the test split, by the row's id."""
    out = root / f"predictions_{name}"
    cli.run(["predict", "--config", path, "--rows", f"[{root}/test]", "--predictions", str(out)])
    return pq.read_table(out).to_pandas().set_index("row_id").sort_index()


def started(root, towers, name, start, **training):
    """A run of one step with a learning rate of zero: what it predicts is what it began with."""
    still = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    arguments = {"table_optimizer": {"lr": 1e-30}, "dense_optimizer": still, "start_from": start} | training
    return write(root, towers, name, **arguments)


def run(path):
    return cli.run(["train", "--config", path])


CASES = {
    "same": (["ctr", "cvr", "like"], {}, []),
    "added_first": (["share", "ctr", "cvr", "like"], {}, ["towers.share"]),
    "dropped": (["cvr"], {}, []),
    "renamed_and_reordered": (["like", "buy_cvr", "ctr"], {"towers.cvr": "towers.buy_cvr"}, []),
    "swapped": (["ctr", "like", "cvr"], {"towers.ctr": "towers.like", "towers.like": "towers.ctr"}, []),
}


@pytest.mark.parametrize(("trunk", "case"), [("SharedBottom", "same"), *((t, c) for t in TRUNKS for c in CASES)])
def test_kept_tasks_predict_what_the_checkpoint_predicts(root, trunk, case):
    towers, rename, new = CASES[case]
    before = pq.read_table(root / f"predictions_old_{trunk}").to_pandas().set_index("row_id").sort_index()
    start = {"checkpoint": str(root / f"old_{trunk}"  / "checkpoints"), "rename": rename, "new": new}
    name = f"{case}_{trunk}"
    path = started(root, towers, name, start, trunk=trunk)
    run(path)
    after = predictions(root, path, name)
    names = {each.removeprefix("towers."): to.removeprefix("towers.") for each, to in rename.items()}
    kept = [(each, names.get(each, each)) for each in before if names.get(each, each) in towers]
    assert len(kept) == len(towers) - len(new) > 0
    for was, now in kept:
        if case == "same":
            assert np.array_equal(before[was], after[now]), was
        np.testing.assert_allclose(after[now], before[was], rtol=1e-6)  # batched products may round in another order
    if len(kept) > 1:
        assert not np.allclose(before[kept[0][0]], before[kept[1][0]]), "tasks must differ for this to mean anything"
    report = json.loads((root / name / "start.json").read_text())
    assert report["checkpoint"].endswith("step_00000004")
    for each in towers:
        part = report["parts"][f"towers.{each}"]
        assert (part["loaded"] == 0) == (f"towers.{each}" in new)
        assert (part["new"] > 0) == (f"towers.{each}" in new)
    dropped = {"ctr", "cvr", "like"} - {was for was, _ in kept}
    assert {f"towers.{each}" for each in dropped} <= set(report["left"])
    assert report["parts"]["tables.shop"] == {"loaded": SHOPS * 8, "new": 0, "there": "tables.shop"}
