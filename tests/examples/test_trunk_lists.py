"""The lists of trunks that are compared: they name every trunk, at comparable sizes."""

from pathlib import Path

import pytest

from tests.contract import every_subclass
from torchrec_mtl.experiments.comparison.candidates import read_comparison, read_yaml
from torchrec_mtl.experiments.comparison.planned import check, models_of
from torchrec_mtl.experiments.comparison.run import count_parameters
from torchrec_mtl.training.job_file import read_job
from torchrec_mtl.trunks import Trunk

EXAMPLES = Path(__file__).parents[2] / "examples"
LISTS = {"census_income": "job.yaml", "complete_journey": "no_sequences.yaml"}


@pytest.fixture(params=LISTS)
def comparison(request):
    folder = EXAMPLES / request.param
    found = read_comparison(folder / "trunks.yaml")
    return found, models_of(read_yaml(folder / LISTS[request.param]), found)


def test_every_trunk_of_the_package_is_a_candidate(comparison):
    found, models = comparison
    named = {model.content["network"]["trunk"]["class_path"].rpartition(".")[2] for model in models}
    assert named == {each.__name__ for each in every_subclass(Trunk)}
    assert "Single-task" in found.candidates


def test_every_candidate_can_be_built_and_gives_every_figure(comparison):
    found, models = comparison
    check(models, found)


def test_sizes_are_within_a_tenth_of_the_baseline(comparison):
    found, models = comparison
    sizes = dict.fromkeys(found.candidates, 0)
    for model in models:
        job = read_job({**model.final(found.settings[0], 0), "output": "unused"})
        sizes[model.candidate] += count_parameters(job)[0]
    base = sizes[found.baseline]
    assert {name: size for name, size in sizes.items() if not 0.9 * base < size < 1.1 * base} == {}


def test_settings_reach_every_candidate(comparison):
    """A setting that a candidate's job does not read would be refused; these must not be replaced by a candidate."""
    found, models = comparison
    for name in found.tuning:
        for model in models:
            place = model.trial({name: "set"})
            for part in name.split("."):
                place = place[part]
            assert place == "set"
