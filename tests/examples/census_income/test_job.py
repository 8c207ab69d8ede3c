"""The job and the list of candidates: they name every trunk, at comparable sizes, and no label is a feature."""

import sys

import numpy as np
import pytest
import yaml

from examples.census_income import __main__ as example
from examples.census_income import trunks
from examples.census_income.columns import CATEGORICAL, DENSE
from examples.census_income.prepare import prepare
from tests.examples.census_income.rows import line, package
from torchrec_mtl import cli
from torchrec_mtl.training.distributed import distributed

JOB = yaml.safe_load(example.JOB.read_text())


def test_the_job_reads_the_features_and_nothing_else():
    assert [each["name"] for each in JOB["features"]["sparse"]] == [*CATEGORICAL]
    assert [each["name"] for each in JOB["features"]["dense"]] == [*DENSE]
    assert [*JOB["network"]["towers"]] == ["income", "marital"], "the order in which sequential trunks pass on"


@pytest.fixture
def small(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    lines = [
        line(age=age, sex=sex, marital_status="Never married" if age < 30 else "Divorced", income=income)
        for age, sex, income in zip(
            rng.integers(15, 60, 400),
            rng.choice(["Male", "Female"], 400),
            rng.choice(["- 50000.", "50000+."], 400),
            strict=True,
        )
    ]
    source = package(tmp_path, monkeypatch, lines[:300], lines[300:])
    monkeypatch.chdir(tmp_path)
    prepare(source=source)
    return tmp_path


def test_it_trains(small, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(cli, "main", lambda: cli.run(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["a test"])
    with distributed():
        assert example.main(["--data.batch_size=32", "--training.epochs=4", "--training.threads=1"]) == 0
    figures = yaml.safe_load((small / "runs" / "census_income" / "metrics.json").read_text())
    assert figures["tasks"]["marital"]["rows"] == 50
    assert figures["tasks"]["marital"]["auc"] > 0.8, "age says it"


@pytest.mark.parametrize("module", [example, trunks])
@pytest.mark.parametrize("argument", ["--help", "--seeds=2"])
def test_help_prepares_nothing(module, argument, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "prepare", lambda **_: calls.append("prepare"))
    monkeypatch.setattr(cli, "main", lambda: calls.append(sys.argv[1]))
    monkeypatch.setattr(sys, "argv", ["a test"])
    assert module.main([argument]) == 0
    assert calls[-1] == {example: "train", trunks: "compare"}[module]
    assert ("prepare" in calls) == (argument != "--help")
