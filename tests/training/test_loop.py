"""The whole way from files to metrics, checkpoints and predictions, on one and two real ranks."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.synthetic import impressions, make_world, write_split
from torchrec_mtl import cli
from torchrec_mtl.tasks.metrics import binary_metrics
from torchrec_mtl.tasks.value_metrics import regression_metrics
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed


def state(*arguments):
    """Trains on this rank and returns its share of the final model and optimizers."""
    from torchrec_mtl.training import checkpoint

    kept = {}
    save = checkpoint.save

    def spy(directory, pipeline, position, *others):
        kept["pipeline"] = pipeline
        kept["position"] = position
        return save(directory, pipeline, position, *others)

    checkpoint.save = spy
    try:
        metrics = cli.run(["train", *arguments])
    finally:
        checkpoint.save = save
    pipeline = kept["pipeline"]
    tensors = {**flat(pipeline._model.state_dict()), **flat(pipeline._optimizer.state_dict(), "optimizer.")}
    return metrics, tensors, kept["position"].step


def flat(value, prefix=""):
    if isinstance(value, dict):
        return {k: v for name, child in value.items() for k, v in flat(child, f"{prefix}{name}.").items()}
    if hasattr(value, "local_shards"):
        return {f"{prefix}{i}": shard.tensor.detach().clone() for i, shard in enumerate(value.local_shards())}
    return {prefix: value.detach().clone()} if isinstance(value, torch.Tensor) else {}


SCHEDULE = ["--training.schedule.warmup_steps=5", "--training.schedule.decay=0.8"]


def everything(root, job):
    """On each rank: a run of two epochs; the same run stopped in its second epoch and resumed; figures and rows."""
    with distributed():
        return in_one_group(root, job)


def in_one_group(root, job):
    straight = state("--config", job, *SCHEDULE, "--training.checkpoint_every=7", "--training.keep=50")
    run = root / "run"
    if torch_rank() == 0:
        shutil.copytree(run, root / "resumed", ignore=lambda d, names: later_than_step(names, straight[2] - 4))
    wait_for(root / "resumed" / "checkpoints")
    resumed = state("--config", job, *SCHEDULE, f"--output={root}/resumed", "--resume")
    evaluated = cli.run(["evaluate", "--config", job])
    rows = ["--rows", f"[{root}/test]", "--predictions", str(root / "predictions")]
    written = cli.run(["predict", "--config", job, *rows])
    return straight, resumed, evaluated, written


def torch_rank():
    import os

    return int(os.environ["RANK"])


def wait_for(path):
    import time

    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)


def later_than_step(names, step):
    return [name for name in names if name.startswith("step_") and int(name[5:]) > step]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    job = make_world(root)
    return root, job, run_on_ranks(everything, 2, root, job)


@pytest.fixture(scope="module")
def alone(world):
    """The two-rank checkpoint, evaluated by one process that knows nothing of ranks."""
    _, job, _ = world
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        return cli.run(["evaluate", "--config", job])


def test_ranks_with_unequal_shares_finish_together(world):
    # 700 rows in two files of 350 = 5 row groups of 64 and one of 30 each, so 12 row groups dealt to two ranks, whose
    # shares differ; the ranks take as many steps as the longer share needs
    (_, _, steps), (_, _, other) = world[2][0][0], world[2][1][0]
    assert steps == other
    assert 2 * 11 <= steps <= 2 * 12  # 700 rows / (2 ranks x 32) = 10.9, and at most one more for the imbalance


def test_a_resumed_run_ends_bitwise_where_the_straight_one_does(world):
    for rank in range(2):
        straight, resumed, *_ = world[2][rank]
        assert straight[2] == resumed[2]
        assert straight[1].keys() == resumed[1].keys()
        assert any("momentum" in name for name in straight[1]), "the tables' optimizer state must be compared too"
        assert any("exp_avg" in name for name in straight[1]), "and the towers'"
        for name, tensor in straight[1].items():
            assert torch.equal(tensor, resumed[1][name]), name


def test_figures_of_one_and_two_ranks_are_equal(world, alone):
    two = world[2][0][2]
    assert world[2][1][2] is None, "only rank 0 holds the figures"
    assert two.keys() == alone.keys() == {"ctr", "ctcvr", "cvr", "value"}
    for task, values in two.items():
        assert values == pytest.approx(alone[task], abs=1e-6, rel=1e-6), task


def test_evaluate_repeats_the_figures_of_training(world):
    root, _, ranks = world
    written = json.loads((root / "run" / "metrics.json").read_text())
    assert written["split"] == "test"
    for task, values in ranks[0][2].items():
        assert written["tasks"][task] == pytest.approx(values, abs=1e-9)


def test_predictions_hold_every_row_once_and_give_the_same_figures(world):
    root, _, ranks = world
    test = pq.read_table(root / "test").to_pandas().set_index("row_id")
    found = pq.read_table(root / "predictions").to_pandas()
    assert sum(written for *_, written in ranks) == len(found) == len(test)
    assert found.columns.tolist() == ["row_id", "ctr", "ctcvr", "cvr", "value"]
    found = found.set_index("row_id").loc[test.index]
    np.testing.assert_allclose(found.ctcvr, found.ctr * found.cvr, rtol=1e-5)
    figures = ranks[0][2]
    ones = np.ones(len(test))
    expected = binary_metrics(found.ctr, test.click, test.sample_weight, test.user.to_numpy())
    assert figures["ctr"] == pytest.approx(expected, abs=1e-6)
    clicked, bought = test.click == 1, test.purchase == 1
    expected = binary_metrics(found.cvr[clicked], test.purchase[clicked], ones[clicked], test.user[clicked].to_numpy())
    assert figures["cvr"] == pytest.approx(expected, abs=1e-6)
    expected = regression_metrics(found.value[bought], test.value[bought], ones[bought])
    assert figures["value"] == pytest.approx(expected, abs=1e-6)


def test_the_job_learns(world):
    # clicks follow shop and price by construction: far from chance after two epochs
    assert world[2][0][2]["ctr"]["auc"] > 0.7


def test_a_run_writes_curves_and_keeps_checkpoints(world):
    root, _, _ = world
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(root / "run" / "tensorboard"))
    curves.Reload()
    tags = set(curves.Tags()["scalars"])
    assert {"train/loss", "train/ctr/loss", "train/value/loss", "train/samples_per_second"} <= tags
    assert {"validation/cvr/auc", "test/ctcvr/ne", "test/value/mae"} <= tags


def test_predicting_needs_no_labels_and_no_groups(world, tmp_path):
    _, job, _ = world
    bare = impressions(40, seed=9).drop(["click", "purchase", "value", "sample_weight", "user"])
    write_split(tmp_path / "bare", bare, files=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        arguments = ["--rows", f"[{tmp_path}/bare]", "--predictions", str(tmp_path / "out")]
        assert cli.run(["predict", "--config", job, *arguments]) == 40
    found = pq.read_table(tmp_path / "out")
    assert found["row_id"].to_pylist() == bare["row_id"].to_pylist()
    assert found.to_pandas()[["ctr", "cvr", "ctcvr", "value"]].notna().all().all()
