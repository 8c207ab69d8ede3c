"""What debiasing brings where nobody clicks, with a confidence interval over worlds."""

import numpy as np
import pytest

from torchrec_mtl.experiments.ablation.run import run
from torchrec_mtl.experiments.ablation.sources import Simulated
from torchrec_mtl.experiments.ablation.variants import SINGLE_TASK, Variant

SOURCE = Simulated(150_000, 30_000, bias=2.0)
SEEDS, STUDENT = 10, 2.262  # worlds, and 97.5 % of Student's t with 9 degrees of freedom


def biases(variant):
    return np.array([run(SOURCE, variant, seed, epochs=4)["cvr_bias_unclicked"] for seed in range(SEEDS)])


@pytest.fixture(scope="module")
def click_only():
    return biases(SINGLE_TASK)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["product", "ips", "dr", "dcmt"])
def test_entire_space_training_takes_bias_from_unclicked_rows(click_only, training):
    """The 95 % interval of the change against the click-only model, world by world, lies below 0."""
    before, after = click_only, biases(Variant("embeddings", training, into_ctr=True))
    assert (before > 0.02).all(), "under this bias the click-only model over-estimates rows without a click"
    change = after - before
    error = change.std(ddof=1) / SEEDS**0.5
    assert change.mean() + STUDENT * error < 0
    assert (after > 0).all(), "and some of the bias is left, as the example's README says"
