"""Jobs with own tables, gates that read features by name and features of some towers only, on one rank and on two."""

import copy

import pytest

from tests.synthetic import job, make_world, write_job
from tests.training.test_bad_input import fails
from torchrec_mtl import cli
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed

STEM = {"levels": [[16], [16]]}
PEPNET = {"layers": [32, 16], "domain": ["price"], "prior": ["shop"], "gate_hidden": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    make_world(root, train_rows=2000)
    return root


def changed(world, output, name, arguments, only=None, own_tables=()):
    content = copy.deepcopy(job(world, output=str(output)))
    content["network"]["trunk"] = {"class_path": f"torchrec_mtl.trunks.{name}", "init_args": arguments}
    content["network"]["only"] = only or {}
    content["features"]["own_tables"] = list(own_tables)
    content["training"]["epochs"] = 3
    return content


CASES = {
    "STEM": {"name": "STEM", "arguments": STEM, "own_tables": ["brands", "shop"]},
    "PEPNet": {"name": "PEPNet", "arguments": PEPNET},
    "groups": {
        "name": "MMoE",
        "arguments": {"layers": [16]},
        "only": {"brands": ["cvr", "value"], "price": ["ctr"]},
    },
    "STEM and groups": {"name": "STEM", "arguments": STEM, "own_tables": ["shop"], "only": {"brands": ["cvr"]}},
    "PEPNet and groups": {"name": "PEPNet", "arguments": PEPNET, "only": {"brands": ["cvr"]}},
}


def run(*commands):
    with distributed():
        return [cli.run(list(command)) for command in commands]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """``{case: (job file, figures)}``, all trained on the same two ranks: starting processes costs more than a job."""
    root = tmp_path_factory.mktemp("runs")
    paths = {
        case: write_job(root / f"{case}.yaml", changed(world, root / case, **arguments))
        for case, arguments in CASES.items()
    }
    figures = run_on_ranks(run, 2, *[["train", "--config", path] for path in paths.values()])[0]
    return {case: (path, found) for (case, path), found in zip(paths.items(), figures, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_job_trains_on_two_ranks_and_gives_the_same_figures_on_one(trained, case, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    path, figures = trained[case]
    assert figures["ctr"]["auc"] > 0.7, "clicks depend on shop and price; chance is 0.5"
    assert figures["ctr"]["ne"] < 0.9, "always saying the base rate gives 1"
    assert 0.75 < figures["ctcvr"]["calibration"] < 1.33, "two clicks of five become purchases, whatever the row"
    found = cli.run(["evaluate", "--config", path])
    for task, values in figures.items():
        assert found[task] == pytest.approx(values, nan_ok=True, rel=1e-5, abs=1e-6), task


REFUSED = [
    (
        {"name": "MMoE", "arguments": {"layers": [16]}, "own_tables": ["shop"]},
        "MMoE mixes all features, so every task would train the tables that are declared as own ones of ['ctr', 'cvr', "
        "'value']. Take a trunk that keeps them apart, such as STEM, or leave them out.",
    ),
    (
        {"name": "STEM", "arguments": STEM, "own_tables": ["brand"]},
        "own_tables: no feature of the impression has a table 'brand'. Found ['brands', 'shop']; did you mean "
        "'brands'?",
    ),
    (
        {"name": "PEPNet", "arguments": PEPNET | {"domain": ["prize"]}},
        "PEPNet: domain: 'prize' is no part of the feature vector. Found ['dense', 'price', 'shop', 'brands']; did you "
        "mean 'price'?",
    ),
    (
        {"name": "PEPNet", "arguments": PEPNET, "only": {"price": ["crt"]}},
        "'price' is for tower 'crt', which is not there. Found ['ctr', 'cvr', 'value']; did you mean 'c",
    ),
]


@pytest.mark.parametrize(("case", "text"), REFUSED)
def test_what_does_not_fit_is_refused(world, tmp_path, monkeypatch, capsys, case, text):
    found = " ".join(fails(capsys, monkeypatch, tmp_path, changed(world, tmp_path / "run", **case)).split())
    assert text in found


def test_features_of_other_towers_are_another_meaning(world, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    arguments = {"name": "SharedBottom", "arguments": {"layers": [8]}}
    content = changed(world, tmp_path / "run", **arguments, only={"price": ["ctr"]})
    content["training"]["epochs"] = 1
    cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content)])
    content["network"]["only"] = {"price": ["cvr"]}
    path = write_job(tmp_path / "other.yaml", content)
    with pytest.raises(ValueError, match=r"trained with other features: 'price' alone: \['ctr'\], now \['cvr'\]\."):
        cli.run(["evaluate", "--config", path])


def test_stem_without_tables_to_keep_apart_is_noted(world, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    content = changed(world, tmp_path / "run", "STEM", STEM)
    content["training"]["epochs"] = 1
    cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content)])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "STEM trains tables of single tasks apart, but features.own_tables names none, so all tasks share all" in said
    )
