"""A real job on one and two ranks shows the inside of its trunk."""

import copy
import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ranks import run_on_ranks
from tests.synthetic import job, make_world, write_job
from torchrec_mtl import cli


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
    # 301 rows on two ranks fall into other batches, so every eighth row of them is another
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
