"""The weighted sum, by hand."""

import pytest
import torch

from torchrec_mtl.balancers import FixedWeights


def test_the_sum_by_hand():
    losses = torch.tensor([2.0, 4.0, 8.0], requires_grad=True)
    loss = FixedWeights([1.0, 0.5, 0.25])(losses)
    assert loss.item() == 6.0  # 1·2 + 0.5·4 + 0.25·8
    loss.backward()
    assert losses.grad.tolist() == [1.0, 0.5, 0.25]


def test_weights_move_with_the_module():
    assert FixedWeights([1.0, 2.0]).to("meta").weights.device.type == "meta"


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -0.5], [float("nan")]])
def test_the_refusal_names_class_and_weights(weights):
    with pytest.raises(ValueError, match="FixedWeights: needs a positive weight for each task, but found") as error:
        FixedWeights(weights)
    assert str(weights) in str(error.value)
