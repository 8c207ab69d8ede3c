"""A TorchRec script that knows nothing of this project trains its objective."""

import pytest

from examples.torchrec_pipeline import main
from torchrec_mtl.testing.ranks import run_on_ranks

pytestmark = pytest.mark.slow


def test_a_plain_torchrec_script_trains_on_two_ranks():
    first, second = run_on_ranks(main, 2)
    assert first == second, "losses are global"
    assert first[0].keys() == {"ctr", "ctcvr", "cvr"}
    # even shops are clicked with 0.5, odd ones with 0.05: the entropy is 0.446 a row, against 0.588 of the mean rate
    assert first[0]["ctr"] > 0.6
    assert sum(losses["ctr"] for losses in first[-10:]) / 10 < 0.57
