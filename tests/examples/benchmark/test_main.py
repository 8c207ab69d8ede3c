"""The command."""

import json

import pytest

from examples.benchmark import __main__ as command
from examples.benchmark import curves
from examples.benchmark.goals import RATIOS
from examples.benchmark.throughput import pairs, quick_pairs
from tests.examples.benchmark.tiny import tiny


def test_unknown_sections_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--only", "speed"])
    assert "unknown sections ['speed']; use some of throughput,curves,memory" in capsys.readouterr().err


def test_every_goal_has_its_pair():
    measured = {(pair.first.name, pair.second.name, pair.workload) for pair in pairs()}
    for goal in RATIOS:
        assert (goal.first.name, goal.second.name, goal.workload) in measured


def test_a_quick_run_has_every_contender_and_network():
    quick = quick_pairs()
    assert {p.first.name for p in quick} | {p.second.name for p in quick} == {
        side.name for p in pairs() for side in (p.first, p.second)
    }
    assert {p.workload.network for p in quick} == {"mmoe", "esmm"}
    assert {p.workload.dimension for p in quick} == {16}
    assert len(quick) == 8


@pytest.mark.slow
def test_curves_are_measured_and_drawn(monkeypatch, tmp_path):
    vary = lambda size: tiny(batch_size=size)  # noqa: E731
    monkeypatch.setattr(curves, "FACTORS", {"batch size": (vary, (8, 64))})
    assert command.main(["--only", "curves", "--quick", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["curves"]["batch size"]["x"] == [8, 64]
    assert all(ms > 0 for ms in results["curves"]["batch size"]["ms_per_step"])
    assert (tmp_path / "curve_batch_size.png").exists()
    assert "| batch size | 8: " in (tmp_path / "results.md").read_text()


def test_sections_are_written_as_they_come(monkeypatch, tmp_path):
    def fail(options, section, advance):
        advance("under way")
        if section == "memory":
            raise RuntimeError("no memory")
        return {
            "batch size": {"x": [1, 2], "ms_per_step": [1, 2], "exponent": 1, "exponent_upper_half": 1, "stopped": ""}
        }

    monkeypatch.setattr(command, "measure", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        command.main(["--only", "curves,memory", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text())["curves"]["batch size"]["x"] == [1, 2]
