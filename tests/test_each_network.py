"""Networks of one shape: the backward pass that is written out is autograd's own."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.test_each_linear import assert_same, gradients
from tests.ways import WAYS, forced
from torchrec_mtl.each_network import each_network, is_relu, one_by_one
from torchrec_mtl.experts import Experts

SIZES = st.integers(1, 5)


def networks(number, widths, dtype=torch.float64):
    pairs = list(pairwise(widths))
    weights = [torch.randn(number, made, read, dtype=dtype).requires_grad_() for read, made in pairs]
    return weights, [torch.randn(number, made, dtype=dtype).requires_grad_() for _, made in pairs]


def reference(x, weights, biases, last):
    outputs = []
    for n in range(len(weights[0])):
        part = x if x.ndim == 2 else x[:, n]
        for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True), start=1):
            part = part @ weight[n].T + bias[n]
            if last or depth < len(weights):
                part = part.clamp(min=0)
        outputs.append(part)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("way", WAYS)
@given(
    rows=st.integers(0, 6),
    number=SIZES,
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    own=st.booleans(),
    last=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_values_and_gradients_are_the_loops(way, rows, number, widths, own, last):
    torch.manual_seed(rows)
    weights, biases = networks(number, widths)
    x = torch.randn(rows, *([number] if own else []), widths[0], dtype=torch.float64, requires_grad=True)
    tensors = [x, *weights, *biases]
    with forced(way):
        found = each_network(x, weights, biases, last=last)
    expected = reference(x, weights, biases, last)
    assert found.shape == (rows, number, widths[-1])
    assert_same(found, expected)
    for _ in range(2):  # the graph may be kept
        for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("shape", [(9, 6), (9, 3, 6)])
def test_numerical_gradients(shape):
    torch.manual_seed(0)
    weights, biases = networks(3, [6, 5, 4])
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with forced("written_out"):
        assert torch.autograd.gradcheck(lambda *t: each_network(t[0], t[1:3], t[3:], last=True), (x, *weights, *biases))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_stay_narrow(dtype):
    torch.manual_seed(0)
    weights, biases = networks(3, [6, 5, 4], dtype)
    x = torch.randn(7, 6, dtype=dtype)
    with forced("written_out"):
        found = each_network(x, weights, biases, last=True)
    assert found.dtype == dtype
    exact = reference(*(x.double(), [w.double() for w in weights], [b.double() for b in biases]), last=True)
    bits = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), exact, atol=bits, rtol=bits)
    found.float().square().sum().backward()
    assert all(each.grad.dtype == dtype for each in (*weights, *biases))


@pytest.mark.parametrize("frozen", ["x", "parameters", "one"])
def test_what_is_frozen_gets_no_gradient(frozen):
    weights, biases = networks(2, [6, 5, 4])
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=frozen != "x")
    held = {"x": [], "parameters": [*weights, *biases], "one": [weights[0]]}[frozen]
    for each in held:
        each.requires_grad_(False)
    tensors = [each for each in (x, *weights, *biases) if each.requires_grad]
    with forced("written_out"):
        found = gradients(each_network(x, weights, biases, last=False), tensors)
    for one, other in zip(found, gradients(reference(x, weights, biases, False), tensors), strict=True):
        assert_same(one, other)


def test_an_input_of_any_strides():
    weights, biases = networks(3, [6, 4])
    stored = torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    expanded = torch.randn(7, 1, 6, dtype=torch.float64, requires_grad=True)
    for leaf, x in ((stored, stored.transpose(0, 1)), (expanded, expanded.expand(-1, 3, -1))):
        with forced("written_out"):
            found = each_network(x, weights, biases, last=True)
        expected = reference(x, weights, biases, True)
        assert_same(found, expected)
        assert_same(gradients(found, [leaf])[0], gradients(expected, [leaf])[0])


def test_where_it_is_used():
    weights, one_layer, small = (
        [torch.empty(4, width, 400 if width > 100 else 8) for width in widths] for widths in ([256, 128], [256], [64])
    )
    few, many = torch.empty(8, 400), torch.empty(40_000, 400)
    assert one_by_one(few, weights), "to train"
    with torch.no_grad():
        assert not one_by_one(few, weights)
        assert one_by_one(many, weights)
    assert not one_by_one(few, one_layer), "one wide product, unless it is too wide"
    assert one_by_one(many, one_layer)
    assert one_by_one(few.unsqueeze(1), one_layer), "of an input for each"
    assert not one_by_one(torch.empty(8, 4, 8), small), "calls would cost more than they save"
    assert one_by_one(torch.empty(2000, 4, 8), small)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not one_by_one(many, weights), "autocast would not reach its products"
    assert not one_by_one(few.to("meta"), weights)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_gradients(frozen):
    torch.manual_seed(0)
    weights, biases = networks(2, [6, 5, 4])
    biases[0].requires_grad_(not frozen)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    tensors = [each for each in (x, *weights, *biases) if each.requires_grad]
    found = []
    for make in (each_network, reference):
        with forced("written_out"):
            (first,) = torch.autograd.grad(make(x, weights, biases, last=True).square().sum(), x, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), tensors))
    assert found[1][1].count_nonzero() > 0
    for one, other in zip(*found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("once", [False, True], ids=["again", "once"])
def test_gradients_of_gradients_where_weights_are_used_twice(once):
    weights, biases = networks(2, [4, 4])
    x = torch.randn(7, 2, 4, dtype=torch.float64, requires_grad=True)
    found = []
    for make in (each_network, reference):
        with forced("written_out"):
            inner = make(x, weights, biases, last=True)
            made = (inner.detach() if once else inner) + x
            outer = make(made, weights, biases, last=True)
            tensors = [x, *weights, *biases]
            first = torch.autograd.grad(outer.square().sum(), tensors, create_graph=True)
            found.append([*first, *torch.autograd.grad(sum(each.square().sum() for each in first), tensors)])
    for one, other in zip(*found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("widths", [[6, 4], [6, 5, 4], [6, 5, 3, 4]])
def test_several_gradients_at_once(shared, last, widths):
    """As balancers ask for them: one backward pass for the losses of all tasks."""
    weights, biases = networks(3, widths)
    x = torch.randn(*((7, 6) if shared else (7, 3, 6)), dtype=torch.float64, requires_grad=True)
    tensors = [x, *weights, *biases]
    with forced("written_out"):
        made = each_network(x, weights, biases, last=last)
        gradients_of = torch.randn(4, *made.shape, dtype=torch.float64)
        together = torch.autograd.grad(made, tensors, gradients_of, is_grads_batched=True, retain_graph=True)
        apart = [torch.autograd.grad(made, tensors, each, retain_graph=True) for each in gradients_of]
    for one, others in zip(together, zip(*apart, strict=True), strict=True):
        assert_same(one, torch.stack(others))


def test_function_transforms():
    bank, x = Experts(3, 6, [5, 4]), torch.randn(7, 6)
    parameters = dict(bank.named_parameters())

    def loss(parameters, rows):
        return torch.func.functional_call(bank, parameters, rows.unsqueeze(0)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)  # the gradient of each row
    bank(x).square().sum().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(each[name].sum(0), parameter.grad)


def test_one_relu_alone():
    assert is_relu([nn.ReLU()])
    for other in ([], [nn.ReLU(), nn.Dropout()], [nn.GELU()], [nn.ReLU6()]):
        assert not is_relu(other)
