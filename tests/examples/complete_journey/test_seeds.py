"""The table of several seeds."""

import io

import pytest
from rich.console import Console

from examples.complete_journey.seeds import collect


@pytest.mark.parametrize("with_baseline", [True, False])
def test_means_and_deviations_by_hand(with_baseline):
    runs = [{"tasks": {"engage": {"rows": 9.0, "auc": auc}}} for auc in (0.7, 0.8, 0.9)]
    baseline = {"engage": {"test": {"auc": {"mean": 0.75, "std": 0.01}}}} if with_baseline else None
    out = io.StringIO()
    Console(file=out, width=100).print(collect(runs, baseline))
    # mean 0.8; deviations -0.1, 0, 0.1: sqrt(0.02 / 3) = 0.0816
    assert "0.8000 ± 0.0816" in out.getvalue()
    assert ("0.7500 ± 0.0100" in out.getvalue()) == with_baseline
    assert "rows" not in out.getvalue()
