"""What the sequence brings, seed by seed."""

import re

import pytest
from rich.console import Console

from examples.complete_journey.attention import FIGURES, VARIANTS, collect, differences


def run(value):
    tasks = {}
    for task, figure in FIGURES:
        tasks.setdefault(task, {})[figure] = value
    return {"tasks": tasks}


RUNS = {"none": [run(0.80), run(0.82)], "shared": [run(0.81), run(0.85)]}


def test_changes_are_taken_seed_by_seed():
    """Changes 0.01 and 0.03: mean 0.02, deviation 0.0141, standard error 0.01."""
    mean, error, change, change_error = differences(RUNS, "engage", "auc")["shared"]
    assert (mean, error) == (pytest.approx(0.83), pytest.approx(0.02))
    assert (change, change_error) == (pytest.approx(0.02), pytest.approx(0.01))


def test_the_table_names_every_variant():
    console = Console(width=120, record=True)
    console.print(collect(RUNS))
    text = console.export_text()
    assert "2 seeds" in text
    assert re.search(r"engage\s+│ auc\s+│ shared\s+│ 0.8300 ± 0.0200 │ \+0.0200 ± 0.0100", text)


def test_jobs_exist():
    assert all(job.is_file() for job, _ in VARIANTS.values())
