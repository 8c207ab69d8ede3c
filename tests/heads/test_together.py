"""Towers that are computed together give what each gives by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.ways import WAYS, forced
from torchrec_mtl.each_linear import STACKED_ROWS, stacking_pays
from torchrec_mtl.heads import Head, TaskHeads, Tower
from torchrec_mtl.mlp import LayerOptions

WIDTH = 4


class Double(Tower):
    """A tower of one's own, with another forward."""

    def forward(self, features):
        return 2 * super().forward(features)


class First(Head):
    """A head that is no tower."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features):
        return features[:, 0].float() * self.scale


TOWER = st.builds(
    lambda kind, hidden, outputs, activation: kind(
        WIDTH, hidden=hidden, outputs=outputs, options=LayerOptions(activation=activation)
    ),
    st.sampled_from([Tower, Tower, Tower, Double]),
    st.sampled_from([[], [3], [3], [3, 2]]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([nn.ReLU, nn.ReLU, nn.Tanh, nn.PReLU]),
)


def named(towers):
    return {f"tower_{i}": tower for i, tower in enumerate(towers)}


def shared_vectors(rows, vectors):
    return torch.randn(rows, vectors, WIDTH, dtype=torch.float64, requires_grad=True)


def one_by_one(towers, shared):
    vectors = shared.expand(-1, len(towers), -1)
    return [tower(vectors[:, i]) for i, tower in enumerate(towers)]


def loss(outputs):
    return sum(
        (i + 1.5) * (output * torch.linspace(1, 2, output.numel()).view(output.shape)).sum()
        for i, output in enumerate(outputs)
    )


def products(monkeypatch):
    """The shapes of the weights of all batched products from now on."""
    from torchrec_mtl.heads import tower

    found, each_linear, each_network = [], tower.each_linear, tower.each_network

    def linear(x, weight, bias):
        found.append(tuple(weight.shape))
        return each_linear(x, weight, bias)

    def network(x, weights, biases, last):
        found.extend(tuple(weight.shape) for weight in weights)
        return each_network(x, weights, biases, last=last)

    monkeypatch.setattr(tower, "stacking_pays", lambda x: True)
    monkeypatch.setattr(tower, "each_linear", linear)
    monkeypatch.setattr(tower, "each_network", network)
    return found


@pytest.mark.parametrize("way", WAYS)
@given(
    towers=st.lists(st.one_of(TOWER, TOWER, TOWER, st.builds(First)), min_size=1, max_size=6),
    rows=st.integers(0, 5),
    one_for_all=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_each_tower_gives_what_it_gives_alone(way, towers, rows, one_for_all):
    torch.manual_seed(rows)
    heads = TaskHeads(named(towers)).double()
    shared = shared_vectors(rows, 1 if one_for_all else len(towers))
    with forced(way):
        found = list(heads(shared).values())
    expected = one_by_one(towers, shared)
    tensors = [shared, *heads.parameters()]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    pairs = [torch.autograd.grad(loss(outputs), tensors) for outputs in (found, expected)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_towers_of_one_shape_are_one_product_a_layer(monkeypatch):
    found = products(monkeypatch)
    TaskHeads(named(Tower(WIDTH, hidden=[3]) for _ in range(5)))(torch.randn(2, 5, WIDTH))
    assert found == [(5, 3, WIDTH), (5, 1, 3)]


def test_few_rows_are_not_worth_a_stack_of_weights_on_a_cpu(monkeypatch):
    found = products(monkeypatch)
    monkeypatch.setattr("torchrec_mtl.heads.tower.stacking_pays", stacking_pays)
    heads = TaskHeads(named(Tower(WIDTH, hidden=[3]) for _ in range(2)))
    heads(torch.randn(STACKED_ROWS - 1, 2, WIDTH))
    assert not found
    heads(torch.randn(STACKED_ROWS, 2, WIDTH))
    assert found


def test_hidden_layers_are_shared_by_towers_of_other_outputs(monkeypatch):
    found = products(monkeypatch)
    towers = [Tower(WIDTH, hidden=[3], outputs=k) for k in (1, 3, 1)]
    outputs = TaskHeads(named(towers))(torch.randn(2, 3, WIDTH))
    assert found == [(3, 3, WIDTH)]
    assert [output.shape for output in outputs.values()] == [(2,), (2, 3), (2,)]


def unlike(change):
    towers = [Tower(WIDTH, hidden=[3], options=LayerOptions(dropout=0.1)) for _ in range(2)]
    change(towers[1])
    return towers


@pytest.mark.parametrize(
    "change",
    [
        lambda tower: tower.eval(),
        lambda tower: tower.register_forward_hook(lambda *a: None),
        lambda tower: tower.output.register_forward_pre_hook(lambda *a: None),
        lambda tower: tower.hidden[0].register_full_backward_hook(lambda *a: None),
        lambda tower: setattr(tower.hidden[2], "p", 0.5),
        lambda tower: tower.hidden.__setitem__(1, nn.LeakyReLU(0.1)),
        lambda tower: tower.hidden.append(nn.Softmax(dim=1)),
        lambda tower: nn.utils.parametrizations.weight_norm(tower.output),
    ],
    ids=["eval", "hook", "output_hook", "backward_hook", "p", "slope", "softmax", "weight_norm"],
)
def test_a_tower_that_differs_goes_by_itself(monkeypatch, change):
    found = products(monkeypatch)
    TaskHeads(named(unlike(change)))(torch.randn(2, 2, WIDTH))
    assert not found
    TaskHeads(named(unlike(lambda tower: None)))(torch.randn(2, 2, WIDTH))
    assert found, "what is alike goes together"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_gradients_have_their_parameters_strides(way, activation):
    heads = TaskHeads(named(Tower(WIDTH, hidden=[3], options=LayerOptions(activation=activation)) for _ in range(2)))
    with forced(way):
        loss(list(heads(torch.randn(5, 2, WIDTH)).values())).backward()
    for parameter in heads.parameters():
        assert parameter.grad.stride() == parameter.stride(), "data-parallel training would copy it"


def test_a_hook_is_called():
    towers, called = [Tower(WIDTH), Tower(WIDTH)], []
    towers[1].register_forward_hook(lambda *a: called.append("called"))
    TaskHeads(named(towers))(torch.randn(2, 2, WIDTH))
    assert called == ["called"]


def test_a_frozen_tower_stays_as_it_is():
    towers = [Tower(WIDTH), Tower(WIDTH)]
    towers[0].requires_grad_(False)
    loss(list(TaskHeads(named(towers))(torch.randn(2, 2, WIDTH)).values())).backward()
    assert all(parameter.grad is None for parameter in towers[0].parameters())
    assert all(parameter.grad is not None for parameter in towers[1].parameters())


def test_the_state_names_each_tower_and_layer():
    heads = TaskHeads(named([Tower(WIDTH, hidden=[3]), Tower(WIDTH, hidden=[3])]))
    heads(torch.randn(2, 2, WIDTH))
    names = [
        f"towers.{i}.{part}"
        for i in (0, 1)
        for part in ("hidden.0.weight", "hidden.0.bias", "output.weight", "output.bias")
    ]
    assert list(heads.state_dict()) == names


@pytest.mark.parametrize("rows", [3, 5000])
def test_autocast_gives_float32(rows):
    heads, shared = TaskHeads(named([Tower(WIDTH), Tower(WIDTH)])), torch.randn(rows, 2, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = heads(shared)
    for one, other in zip(rough.values(), heads(shared).values(), strict=True):
        assert one.dtype == torch.float32
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_towers_drop_apart():
    heads = TaskHeads(named(Tower(1, hidden=[1], options=LayerOptions(dropout=0.5)) for _ in range(2)))
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.fill_(1.0)
    a, b = (output.detach() > 1 for output in heads(torch.ones(4000, 2, 1)).values())  # 1 where dropped, else 5
    assert a.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert (a == b).float().mean().item() == pytest.approx(0.5, abs=0.04)
