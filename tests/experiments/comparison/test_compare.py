"""The whole comparison: equal budgets, choices by validation alone, nothing repeated and nothing mistaken."""

import json
import multiprocessing
import os
import re
import signal
import time
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path
from threading import Thread, Timer

import numpy as np
import pytest
import yaml

from tests.synthetic import job, make_world, write_job
from tests.tasks.test_contract import EXAMPLES
from torchrec_mtl import cli
from torchrec_mtl.experiments.comparison import compare as module
from torchrec_mtl.experiments.comparison import pool
from torchrec_mtl.experiments.comparison.candidates import read_comparison, read_yaml
from torchrec_mtl.experiments.comparison.checks import check, check_seeds, metric_names
from torchrec_mtl.experiments.comparison.compare import compare
from torchrec_mtl.experiments.comparison.planned import TUNING_SEED, Planned, models_of
from torchrec_mtl.experiments.comparison.pool import RunPool
from torchrec_mtl.experiments.comparison.run import Cost, cost, count_parameters, run
from torchrec_mtl.tasks import RegressionTask
from torchrec_mtl.testing.modules import ROWS
from torchrec_mtl.testing.tasks import ready, task_labels, task_output
from torchrec_mtl.training.job_file import overridden, read_job

LR = "training.dense_optimizer.init_args.lr"
TOWER = {"class_path": "torchrec_mtl.heads.Tower", "init_args": {"hidden": [8]}}
BINARY = "torchrec_mtl.tasks.BinaryTask"


def single(task, label):
    return {
        "network.towers": {task: TOWER},
        "network.links": [],
        "data.funnel": None,
        "tasks": [{"class_path": BINARY, "init_args": {"name": task, "label": label}}],
    }


CANDIDATES = {
    "figures": [
        {"task": "ctr", "metric": "auc", "better": "higher"},
        {"task": "ctcvr", "metric": "auc", "better": "higher"},
    ],
    "baseline": "Shared bottom",
    "tuning": {LR: [0.01, 0.02, 0.03]},
    "common": {"training.epochs": 1, "data.group": None},
    "candidates": {
        "Shared bottom": {
            "network.trunk": {"class_path": "torchrec_mtl.trunks.SharedBottom", "init_args": {"layers": [16]}}
        },
        "Single-task": [single("ctr", "click"), single("ctcvr", "purchase")],
    },
}
MODELS, TRIALS = 3, 3


@pytest.fixture
def world(tmp_path):
    make_world(tmp_path)
    path = tmp_path / "candidates.yaml"
    path.write_text(yaml.safe_dump(CANDIDATES))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """Runs made up in this process: 0.02 is best on validation, 0.03 on test. Gives the jobs that were asked for."""
    contents = []

    def made_up(content):
        contents.append(content)
        rate = content["training"]["dense_optimizer"]["init_args"]["lr"]
        seen = {0.01: 0.6, 0.02: 0.8, 0.03: 0.7} if not content["data"]["test"] else {0.01: 0.6, 0.02: 0.7, 0.03: 0.9}
        value = seen[rate] + content["training"]["seed"] % TUNING_SEED / 100
        tasks = [each["init_args"]["name"] for each in content["tasks"]]
        return {"tasks": {task: {"auc": value} for task in tasks}, "seconds": 0.0}

    def measured(self, waiting):
        for path, each in waiting.items():
            yield path, pool._finished(lambda content, log: made_up(content), path, each.content)

    monkeypatch.setattr(RunPool, "_measured", measured)
    monkeypatch.setattr(module, "cost", lambda content: Cost(1, 2, 3.0))
    return contents


def compared(world, **arguments):
    return compare(world / "job.yaml", world / "candidates.yaml", world / "out", **{"seeds": 2, **arguments})


def test_every_model_has_the_same_budget_and_every_seed(world, asked):
    compared(world)
    trials = [content for content in asked if not content["data"]["test"]]
    finals = [content for content in asked if content["data"]["test"]]
    assert len(trials) == MODELS * TRIALS
    assert len(finals) == MODELS * 2
    for tasks in ([each["tasks"] for each in trials], [each["tasks"] for each in finals]):
        counts = [tasks.count(each) for each in tasks]
        assert len({*counts}) == 1, "each of the three models as often"
    assert {content["training"]["dense_optimizer"]["init_args"]["lr"] for content in trials} == {0.01, 0.02, 0.03}
    assert {content["training"]["seed"] for content in finals} == {0, 1}
    assert all(content["training"]["epochs"] == 1 for content in asked), "what is common to all"
    assert all(content["training"]["threads"] == 1 for content in asked)


def test_the_validation_split_alone_chooses(world, asked):
    found = compared(world)
    for content in asked:
        trial = content["training"]["seed"] == TUNING_SEED
        assert bool(content["data"]["test"]) != trial, "a trial cannot see the test split"
        assert bool(content["data"]["validation"]) == trial
        if not trial:
            assert content["training"]["dense_optimizer"]["init_args"]["lr"] == 0.02, "not 0.03, the best on test"
    for each in found["candidates"].values():
        assert all(setting == {LR: 0.02} for setting in each["settings"])
        assert each["figures"]["ctr auc"]["values"] == [0.7, 0.71]
    assert found["candidates"]["Single-task"]["parameters"] == 2


def test_nothing_is_repeated_and_a_stopped_comparison_goes_on(world, asked):
    first = compared(world)
    count = len(asked)
    assert compared(world) == first
    assert len(asked) == count
    gone = sorted((world / "out" / "runs" / "single_task").glob("seed_1_*.json"))[0]
    gone.rename(gone.with_suffix(".unfinished"))  # stopped in the middle of writing
    assert compared(world) == first
    assert len(asked) == count + 1


def test_more_seeds_add_to_what_is_there(world, asked):
    compared(world)
    asked.clear()
    compared(world, seeds=3)
    assert [content["training"]["seed"] for content in asked] == [2] * MODELS


def test_a_run_of_other_settings_is_not_mistaken_for_it(world, asked):
    compared(world)
    count = len(asked)
    changed = {**CANDIDATES, "common": {"training.epochs": 3}}
    (world / "candidates.yaml").write_text(yaml.safe_dump(changed))
    compared(world)
    assert len(asked) == 2 * count
    content = job(world)
    content["features"]["tables"][0]["dimension"] = 4
    write_job(world / "job.yaml", content)
    compared(world)
    assert len(asked) == 3 * count


def test_a_change_repeats_only_the_candidates_that_it_concerns(world, asked):
    compared(world)
    count = len(asked)
    write_job(world / "job.yaml", overridden(job(world), {"network.trunk.init_args.layers": [8]}))
    compared(world)  # Shared bottom replaces the trunk, the two single-task models read it
    assert len(asked) == count + 2 * (TRIALS + 2)


def test_other_rows_make_other_runs(world, asked):
    compared(world)
    count = len(asked)
    path = next((world / "train").glob("*.parquet"))
    path.rename(path.with_name("renamed.parquet"))
    compared(world)
    assert len(asked) == 2 * count


def test_a_calibrated_job_keeps_its_validation_split(world):
    content = {**job(world), "calibration": {"ctr": {"class_path": "torchrec_mtl.calibration.PlattScaling"}}}
    model = models_of(content, read_comparison(world / "candidates.yaml"))[0]
    assert model.final({}, 0)["data"]["validation"]
    assert not model.trial({})["data"]["test"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"candidates": {"Shared bottom": single("ctr", "click")}}, "'Shared bottom': the figure ctcvr auc needs one"),
        ({"candidates": {"Shared bottom": [{}, {}]}}, "the figure ctr auc needs one task 'ctr' among .* found 2"),
        (
            {"candidates": {"Shared bottom": {"network.trunk": "torchrec_mtl.trunks.X"}}},
            "'Shared bottom'.*network.trunk",
        ),
        ({"tuning": {LR: [0.1, "fast"]}}, r"(?s)'Shared bottom' with \{.*fast.*dense_optimizer"),
        (
            {"common": {"data.funnel": {"labels": ["click", "purchase", "refund"]}}},
            r"'Shared bottom'.*Funnel labels \['refund'\] are read by no task",
        ),
        (
            {"figures": [{"task": "ctr", "metric": "acu", "better": "higher"}]},
            r"Candidate 'Shared bottom': task 'ctr' has no metric 'acu'. Found \['rows', 'rate', 'auc', .*"
            r"; did you mean 'auc'\?",
        ),
        (
            {"figures": [{"task": "ctr", "metric": "gauc", "better": "higher"}]},
            r"task 'ctr' has no metric 'gauc'. Found .* \(gauc needs data.group\)",
        ),
        ({"common": {"data.validation": []}}, "data.validation names no files"),
        ({"common": {"data.test": []}}, "data.test names no files"),
    ],
)
def test_mistakes_are_found_before_the_first_run(world, asked, changes, text):
    (world / "candidates.yaml").write_text(yaml.safe_dump({**CANDIDATES, **changes}))
    with pytest.raises(ValueError, match=text):
        compared(world)
    assert not asked


@pytest.mark.parametrize("name", ["seeds", "workers"])
def test_numbers_must_be_positive(world, name):
    with pytest.raises(ValueError, match=f"compare: {name} must be at least 1, but found 0"):
        compared(world, **{name: 0})


def test_seeds_stay_apart_from_that_of_the_trials(world, asked):
    with pytest.raises(ValueError, match=r"seeds can be at most 1000, but found 1001: .* chosen under seed 1000"):
        compared(world, seeds=TUNING_SEED + 1)
    assert not asked
    check_seeds(TUNING_SEED)


def test_gauc_is_a_figure_where_there_are_groups(world, asked):
    figures = [{"task": "ctr", "metric": "gauc", "better": "higher"}]
    content = {**CANDIDATES, "figures": figures, "common": {"data.group": "user"}}
    (world / "candidates.yaml").write_text(yaml.safe_dump(content))
    models = models_of(job(world), read_comparison(world / "candidates.yaml"))
    check(models[:1], read_comparison(world / "candidates.yaml").only(["Shared bottom"]))


@pytest.mark.parametrize("task", [each for each in EXAMPLES if each.served], ids=lambda task: type(task).__name__)
@pytest.mark.parametrize("grouped", [True, False])
def test_names_of_metrics_are_those_that_rows_give(task, grouped):
    fitted = ready(task)
    prediction = fitted.predict(task_output(fitted)).detach().numpy()
    target, group = fitted.target(task_labels(fitted)).numpy(), np.arange(ROWS) % 5
    found = list(fitted.metrics(prediction, target, np.ones(ROWS), group if grouped else None))
    assert metric_names(task, grouped) == metric_names(fitted, grouped) == found


def test_a_task_whose_metrics_take_its_statistics_is_not_judged():
    class Wide(RegressionTask):
        def metrics(self, prediction, label, weight, group):
            return {f"mae_{k}": 0.0 for k in range(prediction.shape[1])}

    assert metric_names(Wide("value", "value", standardise=True), False) is None


def beginning(world, **changes):
    content = overridden(job(world), changes)
    model = models_of(content, read_comparison(world / "candidates.yaml"))[1]
    return Planned(model, "seed_0", model.content).path(world)


def test_a_run_without_other_files_has_the_name_that_it_always_had(world):
    model = models_of(job(world), read_comparison(world / "candidates.yaml"))[0]
    files = [str(path) for split in ("train", "validation", "test") for path in sorted((world / split).iterdir())]
    depends = [model.content, [(path, Path(path).stat().st_size) for path in files]]
    digest = sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:12]
    assert Planned(model, "seed_0", model.content).path(world).name == f"seed_0_{digest}.json"


def test_other_vectors_vocabularies_or_checkpoints_make_other_runs(world):
    file, step = world / "file.parquet", world / "start" / "step_00000001"
    step.mkdir(parents=True)
    table = job(world)["features"]["tables"][0] | {"pretrained": {"path": str(file)}}
    column = {"name": "shop", "vocabulary": str(file)}
    sequence = {"name": "bought", "items": [{"name": "past", "table": "shop", "vocabulary": str(file)}]}
    ways = [
        {"features.tables": [table]},
        {"features.sparse": [column]},
        {"features.sequences": [sequence]},
        {"training.start_from": {"checkpoint": str(step.parent)}},
    ]
    found = []
    for content in ("{}", '{"steps": 1}', '{"steps": 2}'):
        file.write_text(content)
        (step / "meta.json").write_text(content)
        found.append([beginning(world, **way) for way in ways])
    first, second, third = found
    assert not {*first} & {*second}
    assert second[:3] == third[:3], "of vectors and vocabularies the size counts"
    assert second[3] != third[3], "of a checkpoint what it says of itself"


def test_parameters_are_counted_by_hand(tmp_path):
    trunk = {"class_path": "torchrec_mtl.trunks.SharedBottom", "init_args": {"layers": [16]}}
    content = overridden(job(tmp_path), {**single("ctr", "click"), "network.trunk": trunk})
    # features: 2 tables of 8, the price twice; 18 * 16 + 16; tower 16 * 8 + 8, 8 + 1
    assert count_parameters(read_job(content)) == (304 + 136 + 9, (50 + 20) * 8)


def test_the_cost_of_a_job(world):
    found = cost({**job(world), "output": "unused"})
    assert (found.parameters, found.table_parameters) == count_parameters(read_job(job(world)))
    assert found.step_ms > 0


def test_the_command_runs_in_processes(world, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    files = [f"--job={world / 'job.yaml'}", f"--candidates={world / 'candidates.yaml'}", f"--output={world / 'out'}"]
    content = {**CANDIDATES, "tuning": {LR: [0.01]}}
    (world / "candidates.yaml").write_text(yaml.safe_dump(content))
    found = cli.run(["compare", *files, "--seeds=2", "--workers=1", "--only", "[Shared bottom]"])
    (row,) = found["candidates"].values()
    first, second = row["figures"]["ctr auc"]["values"]
    assert first != second, "seeds differ"
    # the same as training by the job file itself, under the second seed
    overrides = {**CANDIDATES["common"], **CANDIDATES["candidates"]["Shared bottom"], LR: 0.01, "training.seed": 1}
    path = write_job(world / "one.yaml", overridden(job(world), {**overrides, "training.threads": 1}))
    alone = cli.run(["train", "--config", path, f"--output={world / 'alone'}"])
    assert second == pytest.approx(alone["ctr"]["auc"], abs=1e-12)
    assert not list((world / "out").rglob("checkpoints")), "only figures are kept"
    assert "ctr" in next((world / "out").rglob("seed_0_*.log")).read_text()
    report = json.loads((world / "out" / "report.json").read_text())
    assert report["candidates"]["Shared bottom"]["figures"]["ctr auc"]["values"] == [first, second]


class Waiting(Future):
    """Says at once that it is cancelled, as a pool does when its turn comes."""

    def cancel(self):
        return super().cancel() and not self.set_running_or_notify_cancel()


class Beside:
    """A pool whose second run fails while the first and the third go on; the fourth has not begun."""

    def __init__(self, *_, **__):
        self.made = []

    def submit(self, work, run, path, content):
        future = Waiting()
        self.made.append((future, content))
        if len(self.made) == 2:
            future.set_running_or_notify_cancel()
            future.set_exception(ValueError("no such column"))
        elif len(self.made) < 4:
            future.set_running_or_notify_cancel()
            found = work(lambda *_: {"tasks": {"ctr": {"auc": 0.5}}, "seconds": 0.0}, path, content)
            Timer(0.2, future.set_result, [found]).start()
        return future

    def shutdown(self, **_):
        pass


def test_runs_beside_one_that_fails_are_kept(world, monkeypatch, capsys):
    monkeypatch.setattr(pool, "ProcessPoolExecutor", Beside)
    (world / "candidates.yaml").write_text(yaml.safe_dump({**CANDIDATES, "tuning": {LR: [0.1, 0.2, 0.3, 0.4]}}))
    with pytest.raises(ValueError, match="no such column"):
        compared(world, only=["Shared bottom"])
    rates = [json.loads(path.read_text())["job"] for path in (world / "out" / "runs").rglob("*.json")]
    assert sorted(each["training"]["dense_optimizer"]["init_args"]["lr"] for each in rates) == [0.1, 0.3]
    assert capsys.readouterr().out.count("failed") == 1


class AtOnce:
    """A pool that runs in this process, whatever it is given."""

    def __init__(self, *_, **__):
        pass

    def submit(self, work, *arguments):
        future = Future()
        try:
            future.set_result(work(*arguments))
        except ValueError as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_):
        pass


def test_a_run_that_fails_is_named(world, monkeypatch, capsys):
    monkeypatch.setattr(pool, "ProcessPoolExecutor", AtOnce)
    monkeypatch.delenv("RANK", raising=False)
    broken = {**CANDIDATES["candidates"]["Shared bottom"], "features.dense": [{"name": "prize"}]}
    content = {**CANDIDATES, "tuning": {}, "candidates": {"Shared bottom": broken}}
    (world / "candidates.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="prize"):  # the model is built all the same
        compared(world)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Shared bottom, trial: failed." in printed
    assert not [*(world / "out" / "runs").rglob("*.json")], "it is tried again the next time"


def test_help_of_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(["compare", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for explained in (
        "Processes, one thread each.",
        "File of the candidates",
        "Number of seeds, at most 1,000.",
        "not by the version of the code",
    ):
        assert explained in text


def test_a_path_tells_runs_apart(world):
    model = models_of(read_yaml(world / "job.yaml"), read_comparison(world / "candidates.yaml"))[0]
    paths = {Planned(model, "seed_0", model.final({LR: rate}, 0)).path(world) for rate in (0.1, 0.2, 0.1)}
    assert len(paths) == 2


def add(world, name, overrides):
    content = {**CANDIDATES, "candidates": {**CANDIDATES["candidates"], name: overrides}}
    (world / "candidates.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_candidate_is_measured_on_the_same_rows(world, asked, split):
    unlike = {**CANDIDATES["candidates"]["Shared bottom"], f"data.{split}": [str(world / "train")]}
    add(world, "Unlike", unlike)
    with pytest.raises(ValueError, match=rf"'Unlike': data.{split} is .*train.* but .* for 'Shared bottom'. Fig"):
        compared(world)
    assert not asked


def kill(content, log):
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("begun")
    if content["training"]["dense_optimizer"]["init_args"]["lr"] == 0.02:
        os._exit(137)
    return {"tasks": {}, "seconds": 0.0}


def test_a_killed_process_is_told_once_and_by_the_runs_that_had_begun(world, monkeypatch):
    monkeypatch.setattr(pool, "run", kill)
    with pytest.raises(OSError, match="a process was killed, perhaps for want of memory, while it ran one of:") as told:
        compared(world, workers=1, only=["Shared bottom"])
    assert re.findall(r"Shared bottom, trial \((.*?)\)", str(told.value)) == [
        str(path) for path in (world / "out" / "runs").rglob("*.log") if not path.with_suffix(".json").exists()
    ]
    assert len([*(world / "out" / "runs").rglob("*.json")]) == 1, "what had finished is kept"


def test_a_candidate_that_overrides_what_is_not_there(world, asked):
    add(world, "Typo", {"network.trnk.init_args.layers": [8]})
    with pytest.raises(ValueError, match=r"'Typo'.*: network has no 'trnk'. It takes .*; did you mean 'trunk'\?"):
        compared(world)
    assert not asked


def linger(content, log):
    """The run of one learning rate is finished at once; the others would take a minute."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("begun")
    if content["training"]["dense_optimizer"]["init_args"]["lr"] != 0.01:
        time.sleep(60)
    return {"tasks": {}, "seconds": 0.0}


def interrupt_once_kept(runs):
    """Ctrl-C, sent to this process alone, as soon as a run is kept and the next has begun."""
    until = time.monotonic() + 60
    while time.monotonic() < until and not (len([*runs.rglob("*.log")]) > 1 and [*runs.rglob("*.json")]):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_comparison_ends_at_once_and_keeps_what_has_finished(world, monkeypatch):
    monkeypatch.setattr(pool, "run", linger)
    runs = world / "out" / "runs"
    Thread(target=interrupt_once_kept, args=[runs], daemon=True).start()
    with pytest.raises(KeyboardInterrupt) as told:
        compared(world, workers=1, seeds=4, only=["Shared bottom"])
    assert not multiprocessing.active_children(), "no run goes on behind"
    assert str(told.value) == (
        f"Interrupted; 1 of 7 runs are kept in {world / 'out'}: the same command goes on from there."
    ), "3 trials and 4 seeds"
    assert len([*runs.rglob("*.json")]) == 1
    assert len([*runs.rglob("*.log")]) == 2, "what had not begun never began"


def test_a_run_is_kept_by_the_process_that_ran_it(tmp_path):
    path = tmp_path / "runs" / "trial.json"
    assert pool._finished(lambda content, log: {"seconds": 1.5}, path, {"a": 1}) == {"seconds": 1.5}
    assert json.loads(path.read_text()) == {"job": {"a": 1}, "seconds": 1.5}


def test_what_a_killed_run_left_is_cleared(world, tmp_path):
    content = read_yaml(world / "job.yaml")
    left = tmp_path / "trial_1"
    (left / "checkpoints" / "step_1").mkdir(parents=True)  # train would refuse such an output
    run(overridden(content, {"training.epochs": 1}), tmp_path / "trial_1.log")
    assert not left.exists()
