"""Many linear layers of one shape: every way to compute them is the loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ways import WAYS, forced
from torchrec_mtl.each_linear import EachLinear, batched_is_faster, each_linear, elementwise

SIZES = st.integers(1, 5)


@pytest.fixture(params=WAYS)
def path(request):
    """Forces a way to compute."""
    with forced(request.param):
        yield request.param


def gradients(output, tensors):
    mix = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    return torch.autograd.grad((output * mix).sum(), tensors, retain_graph=True)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("way", ["batched", "looped"])
@given(rows=st.integers(0, 6), number=SIZES, width=SIZES, made=SIZES, shared=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_each_layer_is_a_product_of_its_own(way, rows, number, width, made, shared, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, width) if shared else torch.randn(rows, number, width)
    parameters = torch.randn(number, made, width), torch.randn(number, made)
    tensors = [part.double().requires_grad_() for part in (x, *parameters)]
    x, weight, bias = tensors
    with forced(way):
        found = each_linear(x, weight, bias)
    expected = torch.einsum("bd,nhd->bnh" if shared else "bnd,nhd->bnh", x, weight) + bias
    assert found.shape == (rows, number, made)
    assert_same(found, expected)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_bfloat16_stays_bfloat16(path, shape):
    layer, x = EachLinear(2, 4, 3), torch.randn(shape)
    exact = layer(x)
    rough = layer.bfloat16()(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)


def test_layers_start_as_a_linear_layer_does():
    torch.manual_seed(0)
    layer, bound = EachLinear(40, 16, 50), 1 / math.sqrt(16)
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # of a uniform distribution
        assert values.mean().abs() < 0.02


def test_little_and_other_devices_are_batched():
    assert all(batched_is_faster(torch.empty(rows, 4), 1000) for rows in (0, 1, 64))
    assert not batched_is_faster(torch.empty(100_000, 4), 1000)
    assert batched_is_faster(torch.empty(100_000, 4, device="meta"), 1000)


def test_an_exported_graph_takes_any_number_of_rows():
    layer = EachLinear(3, 4, 2)
    rows = torch.export.Dim("rows", min=2)
    exported = torch.export.export(layer, (torch.randn(5, 3, 4),), dynamic_shapes=({0: rows},)).module()
    for count in (2, 5000):
        x = torch.randn(count, 3, 4)
        torch.testing.assert_close(exported(x), layer(x))


class Own(torch.nn.ReLU):
    """May do anything."""


def test_what_is_known_to_act_on_each_number_by_itself():
    nn = torch.nn
    assert elementwise([nn.ReLU(), nn.Dropout(0.5), nn.GELU()])
    for other in (nn.LayerNorm(3), nn.PReLU(), nn.Softmax(dim=1), Own()):
        assert not elementwise([nn.ReLU(), other])


@pytest.mark.parametrize("sizes", [(0, 3, 2), (2, 0, 3), (2, 3, -1)])
def test_sizes_must_be_positive(sizes):
    number, width, made = sizes
    text = f"every size must be at least 1, but found number={number}, in_features={width} and out_features={made}"
    with pytest.raises(ValueError, match=text):
        EachLinear(*sizes)
