"""The candidates' file: what it means, and what is refused."""

import pytest
import yaml

from torchrec_mtl.experiments.comparison.candidates import Comparison, Figure, read_comparison

CONTENT = {
    "figures": [{"task": "ctr", "metric": "auc", "better": "higher"}],
    "baseline": "A",
    "tuning": {"x.lr": [0.1, 0.2], "x.dropout": [0.0, 0.3, 0.5]},
    "candidates": {"A": {"a": 1}, "B": [{"b": 1}, {"b": 2}]},
}


def write(path, **changes):
    path = path / "candidates.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return path


def test_a_file_is_read(tmp_path):
    found = read_comparison(write(tmp_path, common={"training.epochs": 1}))
    assert found.figures == [Figure("ctr", "auc", "higher")]
    assert found.figures[0].name == "ctr auc"
    assert found.candidates == {"A": [{"a": 1}], "B": [{"b": 1}, {"b": 2}]}
    assert found.common == {"training.epochs": 1}


def test_every_combination_is_a_setting_and_none_is_one():
    figures = [Figure("ctr", "auc", "higher")]
    found = Comparison(figures, "A", {"A": [{}]}, CONTENT["tuning"]).settings
    assert len(found) == 6
    assert found[0] == {"x.lr": 0.1, "x.dropout": 0.0}
    assert {(each["x.lr"], each["x.dropout"]) for each in found} == {(a, b) for a in (0.1, 0.2) for b in (0, 0.3, 0.5)}
    assert Comparison(figures, "A", {"A": [{}]}).settings == [{}]


def test_only_some_keep_the_baseline(tmp_path):
    comparison = read_comparison(write(tmp_path))
    assert [*comparison.only(["B"]).candidates] == ["A", "B"]
    assert [*comparison.only(["A"]).candidates] == ["A"]
    with pytest.raises(ValueError, match=r"No candidate 'BB'. Found \['A', 'B'\]; did you mean 'B'\?"):
        comparison.only(["BB"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"figures": []}, "at least one figure and one candidate"),
        ({"candidates": {}}, "at least one figure and one candidate"),
        ({"baseline": "a"}, r"candidates.yaml: The baseline 'a' is not among the candidates. Found \['A', 'B'\]"),
        ({"tuning": {"x.lr": 0.1}}, "tuning: 'x.lr' needs a list of values to try, but found 0.1"),
        ({"tuning": {"x.lr": []}}, "tuning: 'x.lr' needs a list"),
        ({"candidates": {"A": "MMoE"}}, "Candidate 'A' must be a mapping .* but found"),
        ({"candidates": {"A": []}}, "Candidate 'A' must be a mapping"),
        ({"candidates": {"A": {"training.seed": 3}}}, "Candidate 'A' overrides training.seed, which each run"),
        ({"candidates": {"A": {"x.lr": 1}}}, "Candidate 'A' overrides x.lr, but tuning tries values of x.lr for every"),
        ({"candidates": {"A": [{}, {"x.lr.y": 1}]}}, "Candidate 'A' overrides x.lr.y, but tuning tries values of x.lr"),
        ({"trunks": {}}, r"\['trunks'\] mean nothing here. Known: \['figures'"),
        ({"candidate": {}}, r"\['candidate'\] mean nothing here. Known: .*; did you mean 'candidates'\?"),
        ({"figures": [{"task": "ctr", "metric": "auc"}]}, "better"),
        (
            {"figures": [{"task": "c", "metric": "ne", "better": "less"}]},
            "c ne: better must be 'higher' or 'lower', but",
        ),
        ({"figures": [{"task": "c", "metric": "ne", "better": "lower", "weight": 0}]}, "weight must be positive"),
    ],
)
def test_mistakes_are_named_with_their_file(changes, text, tmp_path):
    with pytest.raises(ValueError, match=text) as error:
        read_comparison(write(tmp_path, **changes))
    assert "candidates.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("content", "text"), [("[1]", "must hold a mapping, but found list"), ("a: [", "cannot be read")]
)
def test_a_file_that_is_none(content, text, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=text):
        read_comparison(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_comparison(tmp_path / "no.yaml")
