"""Plain layers and their options."""

import pytest
import torch
from torch import nn

from torchrec_mtl.experts import Experts
from torchrec_mtl.mlp import LayerOptions, mlp


def test_without_layers_it_is_the_identity():
    x = torch.randn(3, 4)
    assert torch.equal(mlp(4, [])(x), x)


def test_norm_activation_and_dropout_follow_each_layer_in_this_order():
    network = mlp(4, [3, 2], LayerOptions(dropout=0.5, activation=nn.Tanh, norm=nn.LayerNorm))
    assert [type(each) for each in network] == [nn.Linear, nn.LayerNorm, nn.Tanh, nn.Dropout] * 2
    assert [network[0].weight.shape, network[4].weight.shape] == [(3, 4), (2, 3)]
    assert network[3].p == 0.5


def test_values_with_a_norm_and_an_activation():
    network = mlp(4, [3], LayerOptions(activation=nn.Tanh, norm=nn.LayerNorm))
    x = torch.randn(5, 4)
    made = x @ network[0].weight.T + network[0].bias
    centred = made - made.mean(1, keepdim=True)
    expected = torch.tanh(centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt())
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_outside_its_range_is_refused(dropout):
    with pytest.raises(ValueError, match=rf"dropout must lie in \[0, 1\), but found {dropout}"):
        LayerOptions(dropout=dropout)


@pytest.mark.parametrize("make", [lambda options: mlp(4, [3], options), lambda options: Experts(2, 4, [3], options)])
def test_a_dict_is_no_options(make):
    with pytest.raises(
        TypeError, match=r"LayerOptions\(dropout=.*from torchrec_mtl.trunks, but found \{'dropout': 0.1\}"
    ):
        make({"dropout": 0.1})


def test_widths_must_be_positive():
    with pytest.raises(ValueError, match=r"Layer widths must be at least 1, but found \[8, 0\]"):
        mlp(4, [8, 0])
