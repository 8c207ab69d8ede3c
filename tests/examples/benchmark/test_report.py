"""Goals and Markdown."""

import pytest

from examples.benchmark.goals import goal_lines
from examples.benchmark.report import markdown_table, to_markdown
from examples.benchmark.throughput import OURS, PLAIN, RECHUB, TORCHREC

MIB = 2**20


def pair(second, median, excess=0, workload="MMoE, dimension 16"):
    memory = {"peak": 400 * MIB + excess, "tables": 300 * MIB, "state": 100 * MIB, "excess": excess}
    rate = {"median": 1000.0, "min": 900.0, "max": 1100.0}
    return {
        "workload": workload,
        "first": OURS.name,
        "second": second.name,
        "ratio": {"median": median, "min": median - 0.05, "max": median + 0.05},
        "samples_per_second": {OURS.name: rate, second.name: rate},
        "memory": {OURS.name: memory, second.name: memory},
    }


def results():
    absent = {"workload": "MMoE, dimension 16", "first": OURS.name, "second": RECHUB.name, "not_measured": "absent"}
    stage = {"peak": 4500 * MIB, "copies": 2.01, "seconds": 3.25}
    curve = {"x": [1000, 2000], "ms_per_step": [10.0, 20.0], "exponent": 1.0, "exponent_upper_half": 1.0}
    return {
        "machine": {"processor": "P", "cores": 2, "memory_gib": 23.5, "versions": {"torch": "2.13.0"}},
        "date": "2026-01-01 00:00 UTC",
        "quick": True,
        "throughput": {"pairs": [pair(TORCHREC, 1.0, 100 * MIB), pair(PLAIN, 0.99, 601 * MIB), absent]},
        "curves": {"batch size": {**curve, "stopped": None}},
        "memory": {
            "table": {"tables": 4096 * MIB, "state": 64 * MIB, "imports": 400 * MIB, "stages": {"save": stage}},
            "streaming": {
                "one": {"rows": 1000, "bytes": 10**8, "seconds": 1.0, "peak": 200 * MIB},
                "all": {"rows": 50_000, "bytes": 5 * 10**9, "seconds": 100.0, "peak": 260 * MIB},
            },
            "import": {"median": 0.25, "min": 0.2, "max": 0.3},
        },
    }


def test_a_table_in_markdown():
    assert markdown_table(["a", "b"], [["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"


def test_a_short_row_is_an_error():
    with pytest.raises(ValueError, match=r"Every row needs 2 cells \['a', 'b'\], but found \['1'\]"):
        markdown_table(["a", "b"], [["1"]])


def test_goals_are_met_missed_or_not_measured():
    lines = {goal: (measured, met) for goal, measured, met in goal_lines(results())}
    w = "MMoE, dimension 16"
    assert lines[f"ours ≥ 0.95 × (a) TorchRec loop, {w}"] == ("1.00 (0.95–1.05)", "yes")
    assert lines[f"ours ≥ 1.15 × (a) TorchRec loop, {w}"] == ("1.00 (0.95–1.05)", "**no**")
    assert lines[f"ours ≥ 1 × (b) plain PyTorch, {w}"] == ("0.99 (0.94–1.04)", "**no**")
    assert lines[f"ours ≥ 3.5 × (c) torch-rechub, {w}"] == ("absent", "not measured")
    assert lines["ours ≥ 6 × (c) torch-rechub, MMoE, dimension 64"] == ("left out of this run", "not measured")
    assert lines[f"peak memory of ours ≤ tables + optimizer state + 600 MiB, {w}"] == ("+ 601 MiB", "**no**")
    assert lines["save with a table of 4.00 GiB: no second copy"] == ("2.01 copies", "**no**")
    reader = lines["the reader's memory over 5.0 GB ≤ 1.25 × that over 0.10 GB"]
    assert reader == ("260 MiB against 200 MiB", "**no**")
    assert lines["`import torchrec_mtl` < 0.3 s over `import torchrec`"] == ("0.250 s", "yes")


def test_sections_that_were_not_measured_have_no_goals():
    assert goal_lines({"curves": {}}) == []


def test_the_whole_report():
    text = to_markdown(results())
    assert "P, 2 cores, 24 GiB; torch 2.13.0; 2026-01-01 00:00 UTC." in text
    assert "**A quick run**" in text
    row = (
        "| MMoE, dimension 16 | ours | (a) TorchRec loop | 1,000 | 1,000 | 1.00 (0.95–1.05) | 500 (+100) / 500 (+100) |"
    )
    assert row in text
    assert "| (c) torch-rechub | not measured: absent |  |  |  |" in text
    assert "| save | 4,500 | 2.01 | 3.2 |" in text
    assert "| batch size | 1,000: 10, 2,000: 20 | 1.00 | 1.00 |  |" in text
