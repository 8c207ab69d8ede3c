"""Squared error in standardised units."""

import numpy as np
import pytest
import torch

from torchrec_mtl.tasks import RegressionTask

NAN = float("nan")


def test_the_loss_by_hand():
    task = RegressionTask("value", "value", shift=4.0, scale=2.0)
    output = torch.tensor([0.5, -1.0], requires_grad=True)
    loss = task.loss(output, torch.tensor([10.0, 4.0]))
    # (0.5 − (10 − 4)/2)² = 2.5² and (−1 − 0)² = 1; derivatives 2·(−2.5) and 2·(−1)
    assert loss.tolist() == [6.25, 1.0]
    loss.sum().backward()
    assert output.grad.tolist() == [-5.0, -2.0]


def test_the_prediction_by_hand():
    task = RegressionTask("value", "value", shift=4.0, scale=2.0)
    assert task.predict(torch.tensor([0.5, -3.0])).tolist() == [5.0, -2.0]  # 4 + 2·0.5 and 4 − 2·3


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (-3.0, 0.25), (100.0, 40.0)])
def test_what_predicts_the_label_has_no_loss(shift, scale):
    task = RegressionTask("value", "value", shift=shift, scale=scale)
    label = torch.tensor([0.0, 1.0, 250.0, -7.5])
    output = (label.double() - shift) / scale  # the standardised label
    torch.testing.assert_close(task.predict(output.float()), label, atol=1e-4, rtol=1e-6)
    assert task.loss(output.float(), label).max() < 1e-9


def test_bfloat16_is_raised_to_float32():
    task = RegressionTask("value", "value", shift=1.0)
    output = torch.tensor([0.5], dtype=torch.bfloat16)
    assert task.loss(output, torch.tensor([1.0])).dtype == torch.float32
    assert task.predict(output).dtype == torch.float32


def test_any_finite_label_is_valid():
    labels = torch.tensor([-5.0, 0.0, 1e30, NAN, float("inf"), float("-inf")])
    assert RegressionTask("value", "value").invalid(labels).tolist() == [False, False, False, False, True, True]
    assert RegressionTask("value", "value").label_domain == "finite numbers"


@pytest.mark.parametrize(
    "arguments", [{"scale": 0.0}, {"scale": -1.0}, {"scale": NAN}, {"scale": float("inf")}, {"shift": NAN}]
)
def test_shift_and_scale_are_checked(arguments):
    expected = {"shift": 0.0, "scale": 1.0} | arguments
    text = rf"Task 'value': shift must be finite.*found shift={expected['shift']}, scale={expected['scale']}\."
    with pytest.raises(ValueError, match=text):
        RegressionTask("value", "value", **arguments)


def test_the_weight_is_checked_too():
    with pytest.raises(ValueError, match="Task 'value': weight must be a finite number"):
        RegressionTask("value", "value", weight=-0.5)


def test_metrics_are_those_of_a_regression():
    found = RegressionTask("value", "value").metrics(np.array([1.0]), np.array([3.0]), np.ones(1), None)
    assert found["mae"] == 2
