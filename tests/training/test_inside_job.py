"""A real job on one and two ranks shows the inside of its trunk."""

import copy
import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.synthetic import job, make_world, write_job
from torchrec_mtl import cli
from torchrec_mtl.testing.ranks import run_on_ranks


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    make_world(root, train_rows=300)
    content = copy.deepcopy(job(root))
    levels = {"levels": [[16], [8]], "shared_experts": 1, "task_experts": 1}
    content["network"]["trunk"] = {"class_path": "torchrec_mtl.trunks.PLE", "init_args": levels}
    path = write_job(root / "job.yaml", content)
    cli.run(["train", "--config", path])
    return root, path


def read(root, split="test"):
    return json.loads((root / "run" / f"inside_{split}.json").read_text())


def test_figures_cover_exactly_the_rows_of_the_split(world):
    root, _ = world
    for split, count in (("validation", 200), ("test", 301)):  # batches of 32: the last is padded
        found = read(root, split)
        assert found["split"] == split
        assert list(found["levels"]) == ["levels.0", "levels.1"]
        for level in found["levels"].values():
            assert level["rows"] == count
            assert level["experts"] == ["ctr", "cvr", "value", "shared"]
        first, last = found["levels"].values()
        assert list(first["readers"]) == ["ctr", "cvr", "value", "shared"]
        assert list(last["readers"]) == ["ctr", "cvr", "value"]
        assert list(last["readers"]["cvr"]["load"]) == ["cvr", "shared"]
        assert sum(last["readers"]["cvr"]["load"].values()) == pytest.approx(1, abs=1e-5)


def test_the_picture_and_the_curves_are_written(world):
    root, _ = world
    for split in ("validation", "test"):
        assert (root / "run" / f"inside_{split}.png").read_bytes().startswith(b"\x89PNG")
    curves = EventAccumulator(str(root / "run" / "tensorboard"))
    curves.Reload()
    assert {"validation_inside", "test_inside"} <= set(curves.Tags()["images"])
    points = curves.Scalars("validation_inside/levels.1/entropy/cvr")
    assert len(points) == 2  # two epochs
    entropy = read(root, "validation")["levels"]["levels.1"]["readers"]["cvr"]["entropy"]
    assert points[-1].value == pytest.approx(entropy, abs=1e-6)
    assert curves.Scalars("test_inside/levels.0/use/shared")


def evaluated(path, *more):
    cli.run(["evaluate", "--config", path, "--split", "test", *more])


@pytest.mark.slow
def test_another_process_and_two_ranks_see_the_same(world):
    root, path = world
    before = read(root)
    evaluated(path)  # here the hooks hang on the model before TorchRec traces it
    alone = read(root)
    run_on_ranks(evaluated, 2, path)
    two = read(root)
    for level, expected in before["levels"].items():
        for found in (alone, two):
            assert found["levels"][level]["rows"] == 301
            for reader, figures in expected["readers"].items():
                for figure in ("entropy", "top"):
                    seen = found["levels"][level]["readers"][reader][figure]
                    assert seen == pytest.approx(figures[figure], abs=1e-5)
                assert found["levels"][level]["readers"][reader]["load"] == pytest.approx(figures["load"], abs=1e-5)
    # 301 rows on two ranks fall into other batches, of which one in eight is compared
    np.testing.assert_allclose(
        alone["levels"]["levels.0"]["similarity"], before["levels"]["levels.0"]["similarity"], atol=1e-5
    )


def test_warnings_are_printed_and_kept(world, capsys):
    root, path = world
    evaluated(path, "--training.inside_bounds.dead=1")  # an expert below its even share counts as dead
    texts = read(root)["warnings"]
    assert texts
    assert all("is dead: no gate gives it more than" in text for text in texts)
    printed = " ".join(capsys.readouterr().out.split())
    for text in texts:
        assert printed.count(f"test, inside: {text}") == 1


def test_it_can_be_left_out(world, tmp_path):
    _, path = world
    evaluated(
        path,
        "--training.inside=false",
        "--output",
        str(tmp_path),
        "--checkpoint",
        str(world[0] / "run" / "checkpoints"),
    )
    assert not list(tmp_path.glob("inside_*"))
    assert list(tmp_path.glob("metrics_*"))


def test_a_trunk_that_shows_nothing_writes_nothing(world):
    root, _ = world
    content = copy.deepcopy(job(root, output=str(root / "bottom")))
    content["network"]["trunk"] = {"class_path": "torchrec_mtl.trunks.SharedBottom"}
    cli.run(["train", "--config", write_job(root / "bottom.yaml", content), "--training.epochs=1"])
    assert (root / "bottom" / "metrics.json").exists()
    assert not list((root / "bottom").glob("inside_*"))


def trained(root, path, output):
    cli.run(
        [
            *("train", "--config", path, "--output", str(output), "--training.epochs=1"),
            *("--training.log_every=2", "--training.inside_every=2"),
        ]
    )


def spied(root, path, output):
    """Trains, and gives ``{step: rows that were counted}`` and the rows of the pipeline's batches."""
    from torchrec_mtl.training import inside

    counted = []
    curves = inside.curves

    def spy(levels, prefix):
        if prefix == "train_inside":
            counted.append([level.rows for level in levels])
        return curves(levels, prefix)

    inside.curves = spy
    try:
        trained(root, path, output)
    finally:
        inside.curves = curves
    return counted


def points(output, name):
    found = EventAccumulator(str(output / "tensorboard"))
    found.Reload()
    return [point.step for point in found.Scalars(name)]


@pytest.mark.slow
def test_logged_training_steps_are_watched_without_their_padding(world, tmp_path):
    root, path = world
    # 300 rows make 10 batches of 32, of which the fourth and the eighth are full
    assert spied(root, path, tmp_path / "one") == [[32, 32], [32, 32]]
    assert points(tmp_path / "one", "train_inside/levels.1/entropy/cvr") == [4, 8]
    for counted in run_on_ranks(spied, 2, root, path, tmp_path / "two"):
        assert counted == [[64, 64]]  # of 5 batches the fourth; both ranks count together
    padded = copy.deepcopy(job(root))
    padded["network"]["trunk"] = {"class_path": "torchrec_mtl.trunks.MMoE", "init_args": {"layers": [8]}}
    padded["data"]["batch_size"] = 80
    assert spied(root, write_job(tmp_path / "job.yaml", padded), tmp_path / "padded") == [[60]]  # 300 - 3 * 80


@pytest.mark.parametrize(("every", "inside"), [("0", "true"), ("5", "false")])
def test_watching_training_steps_needs_a_number_and_the_view(world, every, inside, capsys):
    _, path = world
    with pytest.raises((ValueError, SystemExit)) as caught:
        cli.run(["train", "--config", path, f"--training.inside_every={every}", f"--training.inside={inside}"])
    text = str(caught.value) + capsys.readouterr().err
    assert f"inside_every must be at least 1, and training.inside true, but found {every} and {inside}" in text
