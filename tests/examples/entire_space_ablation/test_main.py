"""The example is the command, with Complete Journey prepared first."""

import sys

import pytest

from examples.entire_space_ablation import __main__ as example
from torchrec_mtl import cli
from torchrec_mtl.experiments.ablation.ablate import JOURNEY


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.setattr(example, "prepare", lambda path, console: found.append(("prepare", path)))
    monkeypatch.setattr(cli, "main", lambda: found.append(("main", sys.argv)))
    monkeypatch.setattr(sys, "argv", ["a test"])
    return found


def test_it_prepares_the_default_rows_and_passes_arguments_on(calls):
    assert example.main(["--quick", "--seeds", "2"]) == 0
    assert calls == [("prepare", JOURNEY), ("main", ["torchrec-mtl", "ablate", "--quick", "--seeds", "2"])]


@pytest.mark.parametrize("argument", ["--journey=null", "--help", "-h"])
def test_it_prepares_nothing_that_is_not_asked_for(calls, argument):
    example.main([argument])
    assert [name for name, _ in calls] == ["main"]
