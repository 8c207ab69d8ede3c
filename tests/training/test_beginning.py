"""What a start from a checkpoint says of what it does not take over."""

from types import SimpleNamespace

import pytest

from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.training.beginning import _uncalibrated, check_beginning
from torchrec_mtl.training.checkpoint import find
from torchrec_mtl.training.position import META
from torchrec_mtl.training.start_from import StartFrom


@pytest.mark.parametrize(
    ("there", "declared", "text"),
    [
        ([], [], []),
        (["ctr", "gone"], ["click"], [" ['click'] are calibrated anew at the end."]),
        (["ctr"], [], [" This job declares none for ['click']: what they predict is not calibrated."]),
        (
            ["ctr", "cvr"],
            ["cvr"],
            [
                " ['cvr'] are calibrated anew at the end. This job declares none for ['click']: what they predict is "
                "not calibrated."
            ],
        ),
    ],
)
def test_calibration_is_not_taken_over_in_silence(there, declared, text):
    job = SimpleNamespace(
        tasks=[BinaryTask("click", "click"), BinaryTask("cvr", "purchase")], calibration=dict.fromkeys(declared)
    )
    origin = SimpleNamespace(
        serving=SimpleNamespace(calibrators=dict.fromkeys(there)),
        start=StartFrom("old", rename={"towers.ctr": "towers.click"}),
    )
    begin = f"The checkpoint's calibration of {sorted(there)} is left behind."
    assert _uncalibrated(job, origin) == [begin + each for each in text]


def test_a_checkpoint_is_found_below_a_runs_output(tmp_path):
    for step in (1, 2):
        made = tmp_path / "run" / "checkpoints" / f"step_{step}"
        made.mkdir(parents=True)
        (made / META).write_text("{}")
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", made):
        assert find(path) == made


def job_that_freezes(*parts, start_from=None):
    features = SimpleNamespace(
        tables=[SimpleNamespace(name="shop", pretrained=None)], sequences=[SimpleNamespace(name="past")]
    )
    training = SimpleNamespace(start_from=start_from, freeze=list(parts))
    return SimpleNamespace(features=features, network=SimpleNamespace(towers={"ctr": None}), training=training)


@pytest.mark.parametrize("part", ["tower.ctr", "towers.ctrr", "tables.shops", "trnk", "sequences.pasts"])
def test_a_part_that_is_none_is_no_part_at_random(part):
    with pytest.raises(ValueError, match=rf"freeze: there is no part '{part}'. Found \['tables', .* did you mean '"):
        check_beginning(job_that_freezes("trunk", part))


def test_a_new_part_that_is_none_is_found_before_anything_is_read():
    job = job_that_freezes("trunk", "tables", start_from=StartFrom("old", new=["towers.ctr", "towers.like"]))
    with pytest.raises(ValueError, match=r"start_from.new: there is no part 'towers.like'. Found"):
        check_beginning(job)


@pytest.mark.parametrize("part", ["trunk.experts", "towers.ctr.hidden", "tables.shop:ctr", "tables", "sequences.past"])
def test_what_starts_from_nothing_cannot_be_frozen(part):
    with pytest.raises(ValueError, match=rf"training.freeze names \['{part}'\], which would stay at random: nothing"):
        check_beginning(job_that_freezes(part))
