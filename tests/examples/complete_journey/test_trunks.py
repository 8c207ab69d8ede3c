"""The comparison of trunks is the command, with Complete Journey prepared first."""

import sys

import pytest

from examples.complete_journey import trunks
from examples.complete_journey.__main__ import DATA
from torchrec_mtl import cli


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.setattr(trunks, "prepare", lambda path, console: found.append(("prepare", path)))
    monkeypatch.setattr(cli, "main", lambda: found.append(("main", sys.argv)))
    monkeypatch.setattr(sys, "argv", ["a test"])
    return found


def test_it_prepares_the_rows_and_passes_arguments_on(calls):
    assert trunks.main(["--seeds", "2"]) == 0
    assert calls[0] == ("prepare", DATA)
    name, (program, command, *arguments) = calls[1]
    assert (name, program, command) == ("main", "torchrec-mtl", "compare")
    assert arguments[-2:] == ["--seeds", "2"]
    assert arguments[0].endswith("no_sequences.yaml")


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_prepares_nothing(calls, argument):
    trunks.main([argument])
    assert [name for name, _ in calls] == ["main"]
