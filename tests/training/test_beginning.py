"""What a start from a checkpoint says of what it does not take over."""

from types import SimpleNamespace

import pytest

from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.training.beginning import _uncalibrated
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
