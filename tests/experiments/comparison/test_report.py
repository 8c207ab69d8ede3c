"""Means, standard errors and differences by hand, and the files that hold them."""

import json
import math

import pytest
from rich.console import Console

from torchrec_mtl.experiments.comparison.candidates import Comparison, Figure
from torchrec_mtl.experiments.comparison.report import Measurement, at_edges, markdown, rows_of, summarize, write_report
from torchrec_mtl.experiments.comparison.run import Cost

COMPARISON = Comparison(
    [Figure("ctr", "auc", "higher"), Figure("value", "nrmse", "lower")],
    "Base",
    {"Base": [{}], "Single": [{}, {}]},
    {"lr": [0.1, 0.2]},
)


COST = Cost(1000, 50, 2.0)


def measured(name, ctr=None, value=None, lr=0.1, cost=COST):
    found = [{} for _ in (ctr or value)]
    for i, each in enumerate(found):
        if ctr:
            each["ctr"] = {"auc": ctr[i], "rows": 7.0}
        if value:
            each["value"] = {"nrmse": value[i]}
    return Measurement(name, {"lr": lr}, found, cost)


FOUND = [
    measured("Base", [0.60, 0.62], [0.9, 0.9]),
    measured("Single", ctr=[0.64, 0.68], lr=0.2),
    measured("Single", value=[0.8, 1.0], cost=Cost(234, 5, 0.5)),
]


def test_means_errors_and_differences_by_hand():
    summary = summarize(FOUND, COMPARISON)
    single = summary["candidates"]["Single"]
    auc = single["figures"]["ctr auc"]
    # 0.64 and 0.68: deviation 0.02 √2, of the mean 0.02; differences 0.04 and 0.06
    assert (auc["mean"], auc["error"], auc["change"], auc["change_error"]) == pytest.approx((0.66, 0.02, 0.05, 0.01))
    assert auc["values"] == [0.64, 0.68]
    error = single["figures"]["value nrmse"]
    assert (error["mean"], error["error"], error["change"], error["change_error"]) == pytest.approx((0.9, 0.1, 0, 0.1))
    base = summary["candidates"]["Base"]["figures"]["ctr auc"]
    assert (base["mean"], base["error"], base["change"], base["change_error"]) == pytest.approx((0.61, 0.01, 0, 0))
    assert (summary["seeds"], summary["trials"], summary["baseline"]) == (2, 2, "Base")


def test_a_candidate_of_several_models_is_their_sum():
    single = summarize(FOUND, COMPARISON)["candidates"]["Single"]
    assert (single["parameters"], single["table_parameters"], single["step_ms"]) == (1234, 55, 2.5)
    assert single["settings"] == [{"lr": 0.2}, {"lr": 0.1}]


def test_the_markdown_by_hand():
    text = markdown(summarize(FOUND, COMPARISON))
    assert text.startswith("Test split, mean ± standard error of 2 seeds; difference to Base, seed by seed.")
    assert "ctr auc: higher is better, value nrmse: lower is better." in text
    lines = text.splitlines()
    assert (
        lines[2]
        == "|  | ctr auc | difference | value nrmse | difference | parameters beside tables | in tables | ms a step |"
    )
    assert lines[4] == "| Base | 0.6100 ± 0.0100 |  | 0.9000 ± 0.0000 |  | 1,000 | 50 | 2.0 |"
    differences = ("+0.0500 ± 0.0100", "+0.0000 ± 0.1000")
    start = "| Single | 0.6600 ± 0.0200 | {} | 0.9000 ± 0.1000 | {} | 1,234 | 55 | 2.5 |"
    assert lines[5] == start.format(*differences)
    assert "among 2 settings, the same for each model" in text
    assert "| Single | lr 0.2; lr 0.1 |" in text


def test_what_chance_brings_is_said():
    """With one degree of freedom Student's t is Cauchy: P(|t| > x) = 1 - 2 atan(x) / π."""
    text = markdown(summarize(FOUND, COMPARISON))
    two, three = (2 * (1 - 2 * math.atan(x) / math.pi) for x in (2, 3))
    assert f"chance brings {two:.1f} of the 2 differences beyond two standard errors and {three:.1f} beyond" in text
    assert "(Student's t, 1 degree of freedom)" in text
    alone = Comparison(COMPARISON.figures, "Base", {"Base": [{}]}, COMPARISON.tuning)
    assert "chance" not in markdown(summarize(FOUND[:1], alone))


def test_choices_at_the_edge_are_said():
    def notes(rates, tried):
        found = [measured("Base", [0.6], [0.9], lr=rates[0])]
        found += [measured("Single", ctr=[0.6], lr=rates[1]), measured("Single", value=[0.9], lr=rates[2])]
        return at_edges(summarize(found, Comparison(COMPARISON.figures, "Base", COMPARISON.candidates, {"lr": tried})))

    (note,) = notes([0.3, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert note.startswith("lr: 2 of 3 models chose 0.3, the edge of what was tried ([0.1, 0.2, 0.3]).")
    assert notes([0.1, 0.1, 0.3], [0.1, 0.2, 0.3])[0].startswith("lr: 2 of 3 models chose 0.1")
    assert not notes([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert not notes([0, 0, 0], [0, 0.2]), "nothing is beyond zero"
    assert not notes(["a", "a", "a"], ["a", "b"]), "no numbers"
    assert not notes([0.1, 0.1, 0.1], [0.1]), "nothing was tried"


def test_one_seed_has_no_standard_error():
    found = [measured("Base", [0.60], [0.9]), measured("Single", [0.64], [0.8])]
    summary = summarize(found, COMPARISON)
    assert "±" not in str(rows_of(summary))
    assert markdown(summary).startswith("Test split, one seed;")


def test_the_files(tmp_path):
    found = [measured("Base", [0.60], [0.9]), measured("Single", [float("nan")], [0.8])]
    write_report(summarize(found, COMPARISON), tmp_path, Console(quiet=True))
    summary = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert summary["candidates"]["Single"]["figures"]["ctr auc"]["mean"] is None
    assert summary["candidates"]["Base"]["figures"]["ctr auc"]["error"] is None
    assert (tmp_path / "report.md").read_text() == markdown(summarize(found, COMPARISON))
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_printed_table_names_every_candidate(tmp_path):
    console = Console(width=80, record=True)
    write_report(summarize(FOUND, COMPARISON), tmp_path, console)
    text = console.export_text()
    assert "0.6600 ± 0.0200" in text
    assert "+0.0500 ± 0.0100" in text
    assert "report.md" in text
