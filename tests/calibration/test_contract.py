"""What every calibrator must do; a new file is found by itself."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.calibration.rows import sigmoid, simulated
from torchrec_mtl.calibration import Calibrator, load_calibrators, save_calibrators
from torchrec_mtl.tasks.metrics import expected_calibration_error
from torchrec_mtl.testing.modules import every_subclass

KINDS = every_subclass(Calibrator)
logits = st.lists(st.floats(-2000, 2000, width=32), min_size=2, max_size=50)


def test_both_are_found():
    assert {kind.__name__ for kind in KINDS} >= {"PlattScaling", "IsotonicCalibration"}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def fitted(request):
    return request.param().fit(*simulated())


@given(logits)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_monotone_and_finite(fitted, dtype, values):
    found = fitted(torch.tensor(values).sort().values.to(dtype))
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_before_it_is_fitted_it_changes_next_to_nothing(kind):
    logit = torch.linspace(-8, 8, 33)
    torch.testing.assert_close(kind()(logit).sigmoid(), logit.sigmoid(), rtol=1e-5, atol=0)


def test_one_row_and_none(fitted):
    assert fitted(torch.zeros(1)).shape == (1,)
    assert fitted(torch.zeros(0)).shape == (0,)


def test_fitting_leaves_the_one_that_is_fitted(fitted):
    before = json.dumps(fitted.arguments)
    fitted.fit(*simulated(seed=5))
    assert json.dumps(fitted.arguments) == before


def test_it_travels_as_json_and_not_in_the_state(fitted, tmp_path):
    assert not fitted.state_dict()
    path = tmp_path / "calibrators.json"
    save_calibrators(path, {"ctr": fitted})
    again = load_calibrators(path)["ctr"]
    logit = torch.linspace(-30, 30, 1001)
    assert torch.equal(again(logit), fitted(logit))


def test_it_mends_what_is_miscalibrated(fitted):
    logit, label, weight = simulated(seed=1)  # rows that it was not fitted to
    before = expected_calibration_error(sigmoid(logit), label, weight)
    after = expected_calibration_error(fitted(torch.from_numpy(logit)).sigmoid().numpy(), label, weight)
    assert before > 0.1
    assert after < 0.1 * before


def test_rows_of_no_weight_count_for_nothing(fitted):
    logit, label, weight = simulated(4000)
    heavy = weight > 0
    found, expected = (
        type(fitted)().fit(*rows) for rows in ((logit, label, weight), (logit[heavy], label[heavy], weight[heavy]))
    )
    assert found.arguments == expected.arguments


def test_a_weight_of_four_is_four_rows(fitted):
    logit, label, _ = simulated(3000)
    weight = np.where(np.arange(3000) % 3 == 0, 4, 1)
    repeated = [np.repeat(column, weight) for column in (logit, label)]
    found = type(fitted)().fit(logit, label, weight)(torch.linspace(-3, 3, 50))
    expected = type(fitted)().fit(*repeated, np.ones(weight.sum()))(torch.linspace(-3, 3, 50))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("logit", "label", "weight", "text"),
    [
        (
            [0.0, 1.0],
            [0.0, 1.0],
            [1.0],
            "takes logits, labels and weights \\[N\\], but found \\(2,\\), \\(2,\\), \\(1,\\)",
        ),
        ([0.0, 1.0], [0.0, 1.0], [1.0, -1.0], "takes finite weights of at least 0"),
        ([0.0, 1.0], [0.0, 1.0], [1.0, np.nan], "takes finite weights of at least 0"),
        ([0.0, np.inf], [0.0, 1.0], [1.0, 1.0], "takes finite logits, but found 1 others"),
        ([0.0, 1.0], [0.0, 0.5], [1.0, 1.0], "takes labels 0 and 1, but found 0.5"),
        ([0.0, 1.0], [0.0, 0.0], [1.0, 1.0], "needs rows of both labels, but found 0 positives among 2 rows"),
        ([0.0, 1.0], [0.0, 1.0], [1.0, 0.0], "needs rows of both labels, but found 0 positives among 1 rows"),
    ],
)
def test_rows_that_cannot_tell(fitted, logit, label, weight, text):
    with pytest.raises(ValueError, match=text):
        fitted.fit(np.array(logit), np.array(label), np.array(weight))
