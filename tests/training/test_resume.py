"""Runs that stop and go on: with sequences, tiny chunks, other numbers of ranks, ranks that have no rows."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch

from tests.synthetic import impressions, job, write_job, write_split
from tests.training.test_loop import later_than_step, state, torch_rank, wait_for
from tests.training.test_sequence_job import make_job
from torchrec_mtl import cli
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import chunks
from torchrec_mtl.training.distributed import distributed

EVERY = ["--training.checkpoint_every=7", "--training.keep=50"]


def straight_and_resumed(root, path, *arguments):
    """On each rank: a run whose checkpoints are cut into chunks of 64 bytes; the same, gone on with in mid-epoch."""
    chunks.CHUNK_BYTES = 64
    with distributed():
        straight = state("--config", path, *EVERY, *arguments)
        if torch_rank() == 0:
            shutil.copytree(root / "run", root / "resumed", ignore=lambda d, names: later_than_step(names, 21))
        wait_for(root / "resumed" / "checkpoints")
        resumed = state("--config", path, *EVERY, *arguments, f"--output={root}/resumed", "--resume")
    return straight, resumed


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_job_with_sequences_resumes_bitwise_from_tiny_chunks(tmp_path, ranks):
    path = make_job(tmp_path)
    found = run_on_ranks(straight_and_resumed, ranks, tmp_path, path, "--training.epochs=1")
    marks = json.loads((tmp_path / "resumed" / "checkpoints" / "step_00000021" / "meta.json").read_text())
    assert (marks["epoch"], marks["batch"]) == (0, 21), "it must go on in the middle of an epoch"
    for straight, resumed in found:
        assert straight[2] == resumed[2] > 21
        assert straight[1].keys() == resumed[1].keys()
        assert any("momentum" in name for name in straight[1]), "the tables' optimizer state must be compared too"
        assert any("sequences" in name for name in straight[1])
        for name, tensor in straight[1].items():
            assert torch.equal(tensor, resumed[1][name]), name


def make_large(root, test_rows=300, **changes):
    """A job that leaves sharding to the default: a table that is replicated on CPU and one that is not."""
    write_split(root / "train", impressions(600, seed=1))
    write_split(root / "test", impressions(test_rows, seed=3), files=1)
    content = job(root)
    content["features"]["tables"][0]["rows"] = 6000
    content["training"] |= {"sharding": {}, "epochs": 1}
    content["data"]["validation"] = []
    return write_job(root / "job.yaml", content | changes)


def train(*commands):
    with distributed():
        return [cli.run(list(command)) for command in commands]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_the_default_plan_goes_on_with_another_number_of_ranks(tmp_path, before, after):
    path = make_large(tmp_path)
    (trained,) = run_on_ranks(train, before, ["train", "--config", path])[0]
    evaluate = ["evaluate", "--config", path]
    more = ["train", "--config", path, "--resume", "--training.epochs=2"]
    measured, longer = run_on_ranks(train, after, evaluate, more)[0]
    for task, values in trained.items():
        assert measured[task] == pytest.approx(values, abs=1e-6, rel=1e-6), task
    assert longer["ctr"]["log_loss"] < trained["ctr"]["log_loss"], "the second epoch starts where the first ended"
    steps = [json.loads(file.read_text())["step"] for file in sorted(tmp_path.glob("run/checkpoints/*/meta.json"))]
    assert steps[-1] == -(-600 // (32 * before)) + -(-600 // (32 * after))


def test_a_rank_without_any_row_goes_along(tmp_path):
    binary = "torchrec_mtl.tasks.BinaryTask"  # one row lies in no narrower space
    tasks = [
        {"class_path": binary, "init_args": {"name": name, "label": "click"}} for name in ("ctr", "ctcvr", "value")
    ]
    path = make_large(tmp_path, test_rows=1, tasks=tasks)
    predict = ["predict", "--config", path, "--rows", f"[{tmp_path}/test]", "--predictions", str(tmp_path / "out")]
    found = run_on_ranks(train, 2, *[[*c, "--data.funnel", "null"] for c in (["train", "--config", path], predict)])
    assert found[0][0]["ctr"]["rows"] == 1
    assert sorted(written for _, written in found) == [0, 1]
    assert pq.read_table(tmp_path / "out")["row_id"].to_pylist() == [3_000_000]
