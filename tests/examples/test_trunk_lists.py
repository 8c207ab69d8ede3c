"""The lists of trunks that are compared: they name every trunk, at comparable sizes."""

from pathlib import Path

import pytest

from torchrec_mtl.experiments.comparison.candidates import read_comparison, read_yaml
from torchrec_mtl.experiments.comparison.planned import models_of
from torchrec_mtl.experiments.comparison.run import count_parameters
from torchrec_mtl.testing.modules import every_subclass
from torchrec_mtl.training.job_file import read_job
from torchrec_mtl.trunks import Trunk

EXAMPLES = Path(__file__).parents[2] / "examples"
LISTS = {"census_income": "job.yaml", "complete_journey": "no_sequences.yaml"}


@pytest.fixture(params=LISTS, scope="module")
def comparison(request):
    """The list, its models and the job of each."""
    folder = EXAMPLES / request.param
    found = read_comparison(folder / "trunks.yaml")
    models = models_of(read_yaml(folder / LISTS[request.param]), found)
    return found, models, [read_job({**model.final(found.settings[0], 0), "output": "unused"}) for model in models]


def test_every_trunk_of_the_package_is_a_candidate(comparison):
    found, models, _ = comparison
    named = {model.content["network"]["trunk"]["class_path"].rpartition(".")[2] for model in models}
    assert named == {each.__name__ for each in every_subclass(Trunk)}
    assert "Single-task" in found.candidates


def test_every_candidate_gives_every_figure_once(comparison):
    found, models, jobs = comparison
    for name in found.candidates:
        tasks = [
            task.name for model, job in zip(models, jobs, strict=True) if model.candidate == name for task in job.tasks
        ]
        assert [tasks.count(figure.task) for figure in found.figures] == [1] * len(found.figures), name


def test_sizes_are_within_a_tenth_of_the_baseline(comparison):
    found, models, jobs = comparison
    sizes = dict.fromkeys(found.candidates, 0)
    for model, job in zip(models, jobs, strict=True):
        sizes[model.candidate] += count_parameters(job)[0]
    base = sizes[found.baseline]
    assert {name: size for name, size in sizes.items() if not 0.9 * base < size < 1.1 * base} == {}


def test_settings_reach_every_candidate(comparison):
    found, models, _ = comparison
    for name in found.tuning:
        for model in models:
            place = model.trial({name: "set"})
            for part in name.split("."):
                place = place[part]
            assert place == "set"
