"""A calibrated job from training to predictions in another process."""

import copy
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.synthetic import impressions, job, make_world, write_job, write_split
from torchrec_mtl import cli
from torchrec_mtl.calibration import IsotonicCalibration, PlattScaling, load_calibrators
from torchrec_mtl.tasks.metrics import binary_metrics
from torchrec_mtl.testing.ranks import run_on_ranks

CALIBRATION = {
    "ctr": {"class_path": "torchrec_mtl.serving.PlattScaling"},
    "cvr": {"class_path": "torchrec_mtl.serving.IsotonicCalibration"},
}
REGRESSION = "torchrec_mtl.tasks.RegressionTask"


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        yield


def calibrated(root):
    content = job(root, calibration=CALIBRATION)
    value = {"name": "value", "label": "value", "label_space": "purchase", "standardise": True}
    content["tasks"][3] = {"class_path": REGRESSION, "init_args": value}
    return content


def in_a_new_process(*commands):
    """Runs commands one after the other in one process that knows nothing of this one."""
    code = f"from torchrec_mtl import cli\nfor command in {list(commands)}: cli.run(command)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def newest(run):
    return sorted((run / "checkpoints").glob("step_*"))[-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    write_split(root / "more", impressions(1500, seed=4), files=1)
    content = calibrated(root)
    content["data"]["validation"] = [str(root / "more")]
    path = write_job(root / "job.yaml", content)
    metrics = cli.run(["train", "--config", path, "--training.checkpoint_every=5", "--training.keep=3"])
    arguments = ["--config", path, "--rows", f"[{root}/more]", "--predictions", str(root / "predicted_more")]
    cli.run(["predict", *arguments])
    return root, path, metrics


def frame(root, split, predictions):
    rows = pq.read_table(root / split).to_pandas().set_index("row_id")
    return rows.join(
        pq.read_table(root / predictions).to_pandas().set_index("row_id"), validate="1:1", rsuffix="_predicted"
    )


def test_another_process_evaluates_and_predicts_the_same_numbers(world):
    root, path, metrics = world
    predict = ["--rows", f"[{root}/test]", "--predictions", str(root / "predicted_test")]
    text = in_a_new_process(["evaluate", "--config", path], ["predict", "--config", path, *predict])
    assert text.count("Calibrated, as the checkpoint says: ctr by PlattScaling(slope=") == 2
    written, evaluated = (
        json.loads((root / "run" / f"{name}.json").read_text()) for name in ("metrics", "metrics_test")
    )
    assert evaluated["tasks"] == written["tasks"] == json.loads(json.dumps(metrics))
    assert written["calibrated"] == {"ctr": "PlattScaling", "cvr": "IsotonicCalibration"}
    found = frame(root, "test", "predicted_test")
    expected = binary_metrics(found.ctr, found.click, found.sample_weight, found.user.to_numpy())
    assert metrics["ctr"] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(found.ctcvr, found.ctr * found.cvr, rtol=1e-5)


def without_calibrators(root, tmp_path):
    """A copy of the run's last checkpoint without its calibrators."""
    copied = tmp_path / newest(root / "run").name
    shutil.copytree(newest(root / "run"), copied)
    state = json.loads((copied / "serving.json").read_text())
    (copied / "serving.json").write_text(json.dumps({**state, "calibrators": {}}))
    return copied


def test_calibrators_are_fitted_to_the_validation_split_inside_each_label_space(world, tmp_path):
    root, path, _ = world
    checkpoint = without_calibrators(root, tmp_path)
    arguments = ["--rows", f"[{root}/more]", "--predictions", str(tmp_path / "raw"), "--checkpoint", str(checkpoint)]
    cli.run(["predict", "--config", path, *arguments])
    raw = pq.read_table(tmp_path / "raw").to_pandas().set_index("row_id")
    rows = pq.read_table(root / "more").to_pandas().set_index("row_id")
    raw = raw.loc[rows.index, ["ctr", "cvr"]]
    logit = np.log(raw / (1 - raw))
    found = load_calibrators(newest(root / "run") / "serving.json")
    platt = PlattScaling().fit(logit.ctr, rows.click, rows.sample_weight)
    assert found["ctr"].slope == pytest.approx(platt.slope, rel=1e-4)
    assert found["ctr"].intercept == pytest.approx(platt.intercept, rel=1e-4, abs=1e-5)
    clicked = rows.click == 1
    isotonic = IsotonicCalibration().fit(logit.cvr[clicked], rows.purchase[clicked], np.ones(clicked.sum()))
    np.testing.assert_allclose(found["cvr"].values, isotonic.values, atol=1e-6)
    np.testing.assert_allclose(found["cvr"].knots, isotonic.knots, atol=1e-5)


def test_on_the_validation_split_the_mean_prediction_is_the_rate(world):
    root, _, _ = world
    found = frame(root, "more", "predicted_more")
    w = found.sample_weight
    assert (w * found.ctr).sum() == pytest.approx((w * found.click).sum(), rel=1e-5)
    clicked = found[found.click == 1]
    assert clicked.cvr.mean() == pytest.approx(clicked.purchase.mean(), rel=1e-3)  # but for half an observation
    figures = json.loads((root / "run" / "metrics.json").read_text())["calibration_on_validation"]
    assert figures["ctr"]["after"]["calibration"] == pytest.approx(1, abs=1e-5)
    assert abs(figures["ctr"]["before"]["calibration"] - 1) > 1e-4, "else there was nothing to mend"
    assert figures["ctr"]["after"]["log_loss"] < figures["ctr"]["before"]["log_loss"]
    assert figures["cvr"]["after"]["ece"] < figures["cvr"]["before"]["ece"]


def test_every_checkpoint_carries_statistics_and_the_last_one_calibrators(world):
    root, _, _ = world
    train = pq.read_table(root / "train").to_pandas().query("purchase == 1").value.astype(float)
    checkpoints = sorted((root / "run" / "checkpoints").glob("step_*"))
    assert len(checkpoints) == 3
    for path in checkpoints:
        state = json.loads((path / "serving.json").read_text())
        assert state["statistics"]["value"]["shift"] == pytest.approx(train.mean(), rel=1e-6)
        assert state["statistics"]["value"]["scale"] == pytest.approx(train.std(ddof=0), rel=1e-6)
        assert sorted(state["calibrators"]) == (["ctr", "cvr"] if path == checkpoints[-1] else [])
    assert not list((root / "run").rglob(".*.part"))


def test_predictions_are_in_the_units_of_the_statistics(world):
    root, _, _ = world
    found = frame(root, "more", "predicted_more")
    assert found.value_predicted.mean() == pytest.approx(2.5, abs=0.5)  # values lie between 2 and 3


def test_reliability_is_written_and_drawn(world):
    root, _, _ = world
    figures = json.loads((root / "run" / "metrics.json").read_text())
    found = figures["reliability"]
    assert {name: each["of"] for name, each in found.items()} == {
        "ctr": "rate",
        "ctcvr": "rate",
        "cvr": "rate",
        "value": "mean",
    }
    rows = pq.read_table(root / "test").to_pandas()
    assert sum(found["cvr"]["bins"]["rows"]) == (rows.click == 1).sum() == figures["tasks"]["cvr"]["rows"]
    weight, observed = (np.array(found["ctr"]["bins"][name]) for name in ("weight", "observed"))
    assert weight @ observed == pytest.approx((rows.sample_weight * rows.click).sum())
    picture = (root / "run" / "reliability_test.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def copied(root, tmp_path):
    shutil.copytree(root / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_resumes_with_its_own_calibration(world, tmp_path, capsys):
    root, path, metrics = world
    run = copied(root, tmp_path)
    before = (newest(run) / "serving.json").read_text()
    other = '{"ctr": {"class_path": "torchrec_mtl.serving.IsotonicCalibration"}}'
    found = cli.run(["train", "--config", path, f"--output={run}", "--resume", f"--calibration={other}"])
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(metrics))
    assert (newest(run) / "serving.json").read_text() == before
    text = " ".join(capsys.readouterr().out.split())
    assert "as the checkpoint says: ctr by PlattScaling(slope=" in text
    assert "The job file says {'ctr': 'IsotonicCalibration'}; the checkpoint counts." in text


def test_a_run_that_ended_before_its_calibration_is_calibrated_when_resumed(world, tmp_path):
    root, path, metrics = world
    run = copied(root, tmp_path)
    before = (newest(run) / "serving.json").read_text()
    state = json.loads(before)
    (newest(run) / "serving.json").write_text(json.dumps({**state, "calibrators": {}}))
    found = cli.run(["train", "--config", path, f"--output={run}", "--resume"])
    assert (newest(run) / "serving.json").read_text() == before
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(metrics))


def test_training_on_fits_calibration_anew_and_keeps_statistics(world, tmp_path, capsys):
    root, path, _ = world
    run = copied(root, tmp_path)
    first = json.loads((newest(run) / "serving.json").read_text())
    cli.run(["train", "--config", path, f"--output={run}", "--resume", "--training.epochs=3"])
    second = json.loads((newest(run) / "serving.json").read_text())
    assert "it is fitted anew at the end" in " ".join(capsys.readouterr().out.split())
    assert second["statistics"] == first["statistics"]
    assert second["calibrators"]["ctr"]["init_args"] != first["calibrators"]["ctr"]["init_args"]


def test_a_checkpoint_without_calibration_says_so(world, tmp_path, capsys):
    root, path, metrics = world
    checkpoint = without_calibrators(root, tmp_path)
    found = cli.run(["evaluate", "--config", path, "--checkpoint", str(checkpoint), f"--output={tmp_path}"])
    assert found["ctr"]["log_loss"] != metrics["ctr"]["log_loss"]
    assert "as the checkpoint says: nothing. The job file says" in " ".join(capsys.readouterr().out.split())


def trained_on_ranks(path):
    return cli.run(["train", "--config", path])


@pytest.mark.slow
def test_two_ranks_calibrate_as_one(tmp_path):
    root = tmp_path
    make_world(root)
    content = calibrated(root)
    content["training"]["epochs"] = 1
    path = write_job(root / "job.yaml", content)
    two, none = run_on_ranks(trained_on_ranks, 2, path)
    assert none is None
    alone = cli.run(["evaluate", "--config", path])
    for task, values in two.items():
        assert values == pytest.approx(alone[task], abs=1e-6, rel=1e-6), task


def failure(tmp_path, content, *arguments, command="train"):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # its text is what the tests compare
        cli.run([command, "--config", write_job(tmp_path / "job.yaml", content), *arguments])
    return str(caught.value)


@pytest.fixture
def content(world, tmp_path):
    found = copy.deepcopy(calibrated(world[0]))
    found["output"] = str(tmp_path / "run")
    return found


def test_calibration_without_a_validation_split(content, tmp_path):
    content["data"]["validation"] = []
    assert "Calibration of ['ctr', 'cvr'] is fitted on the validation split, but the job names none" in failure(
        tmp_path, content
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ctcvr", "Calibration of 'ctcvr': a link makes it from the towers ['ctr', 'cvr']"),
        ("ctrr", "Calibration of 'ctrr': no tower is called so. Found ['ctr', 'cvr', 'value']; did you mean 'ctr'?"),
        ("value", "Calibration of 'value': a RegressionTask has no logit of a label that is 0 or 1"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_the_first_step(content, tmp_path, name, text):
    content["calibration"] = {name: CALIBRATION["ctr"]}
    assert text in failure(tmp_path, content)
    assert not (tmp_path / "run").exists()


def test_a_tower_that_no_task_measures(content, tmp_path):
    del content["tasks"][2]  # cvr
    text = failure(tmp_path, content)
    assert "Calibration of 'cvr': no task says which labels and rows it is measured on" in text
    assert "did you mean 'ctcvr'? A task of weight 0.0 is measured, not trained." in text


def test_a_validation_split_that_cannot_tell(world, content, tmp_path):
    """No clicked row is without a purchase: the run fails after training, says so, and goes on when that is mended."""
    table = impressions(200, seed=8)
    all_bought = table.filter(np.asarray(table["click"]) == np.asarray(table["purchase"]))
    write_split(tmp_path / "bought", all_bought)
    content["data"]["validation"] = [str(tmp_path / "bought")]
    content["training"]["epochs"] = 1
    text = failure(tmp_path, content)
    assert "Calibration of 'cvr' on the validation split: Calibration needs rows of both labels" in text
    assert "go on with --resume" in text
    content["data"]["validation"] = [str(world[0] / "more")]
    assert cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content), "--resume"])
    assert load_calibrators(newest(tmp_path / "run") / "serving.json").keys() == {"ctr", "cvr"}


def test_a_damaged_state_is_named(world, content, tmp_path):
    checkpoint = without_calibrators(world[0], tmp_path)
    for damage, text in (
        ("{", "serving.json is damaged"),
        ('{"calibrators": {"ctr": {}}}', "Cannot read the calibrators"),
    ):
        (checkpoint / "serving.json").write_text(damage)
        assert text in failure(tmp_path, content, "--checkpoint", str(checkpoint), command="evaluate")


def test_statistics_that_are_missing_or_do_not_fit(world, content, tmp_path):
    checkpoint = without_calibrators(world[0], tmp_path)
    arguments = ["--checkpoint", str(checkpoint)]
    (checkpoint / "serving.json").write_text('{"statistics": {"value": {"slope": 1.0}}}')
    text = failure(tmp_path, content, *arguments, command="evaluate")
    assert "Task 'value': RegressionTask cannot take the statistics that the checkpoint carries" in text
    (checkpoint / "serving.json").unlink()  # as in checkpoints of old
    assert "Tasks ['value'] take statistics from the training split" in failure(
        tmp_path, content, *arguments, command="evaluate"
    )


def test_a_task_of_another_meaning_is_refused(world, content, tmp_path):
    checkpoint = without_calibrators(world[0], tmp_path)
    arguments = ["--checkpoint", str(checkpoint)]
    content["tasks"][3]["class_path"] = "torchrec_mtl.tasks.LogRegressionTask"
    text = failure(tmp_path, content, *arguments, command="evaluate")
    assert "Task 'value' was trained as RegressionTask(" in text
    assert "but is declared as LogRegressionTask(" in text
    assert "Declare the task as it was trained." in text


def test_what_a_task_is_measured_on_may_change(world, content, tmp_path):
    checkpoint = without_calibrators(world[0], tmp_path)
    content["tasks"][1]["init_args"] |= {"weight": 3.0, "sample_weight": "sample_weight", "label_space": "click"}
    assert cli.run(["evaluate", "--config", write_job(tmp_path / "job.yaml", content), "--checkpoint", str(checkpoint)])


def test_labels_that_are_still_to_come_calibrate_nothing(content, tmp_path):
    content["network"]["towers"]["rate"] = content["network"]["towers"]["ctr"]
    joined = {"class_path": "torchrec_mtl.heads.Joined", "init_args": {"name": "cvr_delayed", "of": ["cvr", "rate"]}}
    content["network"]["links"].append(joined)
    delayed = {"name": "cvr_delayed", "label": "purchase", "label_space": "click", "elapsed": "sample_weight"}
    content["tasks"].append({"class_path": "torchrec_mtl.tasks.DelayedFeedbackTask", "init_args": delayed})
    text = failure(tmp_path, content, "--output", str(tmp_path / "other"))
    assert "Calibration of 'cvr': ['cvr_delayed'] learn it from labels that are still to come" in text
