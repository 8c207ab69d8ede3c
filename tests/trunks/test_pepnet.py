"""PEPNet against a slow float64 reference, by whom its gates are moved, and what it is with gates of 1."""

import math

import pytest
import torch

from tests.trunks.banks import assert_equals_written_out, expert, network
from tests.trunks.by_hand import affine, floats, relu
from torchrec_mtl import each_linear
from torchrec_mtl.layout import Layout
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import PEPNet
from torchrec_mtl.trunks.pepnet import GateUnit

LAYOUT = Layout({"dense": (0, 1), "price": (0,), "age": (1,), "channel": (2, 3), "user": (4, 5), "shop": (6, 7, 8)})
NAMED = {"domain": ["channel", "price"], "prior": ["user", "shop"]}


def gate_unit(state, key, x):
    """2 sigmoid(W' relu(W x + b) + b')."""
    hidden = relu(affine(state[f"{key}.0.weight"], state[f"{key}.0.bias"], x))
    return [2 / (1 + math.exp(-z)) for z in affine(state[f"{key}.2.weight"], state[f"{key}.2.bias"], hidden)]


def reference(trunk, row, prior=range(9)):
    """Row by row, as the paper has it."""
    state = floats(trunk)
    scaled = [g * x for g, x in zip(gate_unit(state, "embedding_gate", row), row, strict=True)]
    told = [row[i] if i in prior else scaled[i] for i in range(9)]
    found = []
    for t in range(trunk.num_tasks):
        h = scaled
        for depth, layer in enumerate(trunk.layers):
            h = expert(layer, t, h)
            gates = gate_unit(state, f"gates.{depth}", told)
            h = [g * value for g, value in zip(gates[t * len(h) : (t + 1) * len(h)], h, strict=True)]
        found.append(h)
    return found


def pepnet(num_tasks=3, layers=(5, 4), **names):
    torch.manual_seed(0)
    trunk = PEPNet(9, num_tasks, layers=layers, gate_hidden=7, **names)
    trunk.arrange(LAYOUT)
    return trunk


@pytest.mark.parametrize(("num_tasks", "layers"), [(1, [3]), (2, [5, 3, 4]), (3, [6, 2])])
def test_pepnet_equals_the_sums_written_out(num_tasks, layers):
    assert_equals_written_out(pepnet(num_tasks, layers), reference)


def test_the_gates_read_the_prior_as_it_is_and_the_rest_scaled():
    assert_equals_written_out(pepnet(**NAMED), lambda trunk, row: reference(trunk, row, prior=(4, 5, 6, 7, 8)))


@torch.no_grad()
def open_all(trunk):
    """Gates of 1: 2 sigmoid(0)."""
    for gate in (trunk.embedding_gate, *trunk.gates):
        gate[2].weight.zero_()
        gate[2].bias.zero_()


def test_gates_of_one_make_separate_networks():
    trunk, features = pepnet(layers=[6, 4], **NAMED), torch.randn(20, 9)
    open_all(trunk)
    first, second = trunk.layers
    for task in range(3):
        alone = torch.nn.Sequential(network(first, task), network(second, task))
        torch.testing.assert_close(trunk(features)[:, task], alone(features))


@torch.no_grad()
def close_networks(trunk):
    """Every layer gives ones whatever it reads, so that the output is the last gate."""
    for layer in trunk.layers:
        layer.layers[0].weight.zero_()
        layer.layers[0].bias.fill_(1.0)


@pytest.mark.parametrize("prior", [["user"], ["shop", "age"], None])
def test_a_gate_moves_the_prior_alone(prior):
    trunk, features = pepnet(domain=["channel"], prior=prior), torch.randn(20, 9, requires_grad=True)
    close_networks(trunk)
    (trunk(features) * torch.randn(20, 3, 4)).sum().backward()
    moved = tuple(features.grad.any(0).nonzero().flatten().tolist())
    assert moved == (tuple(range(9)) if prior is None else LAYOUT.of(prior, "test"))


@torch.no_grad()
def test_a_gate_sees_every_feature():
    trunk, features = pepnet(domain=["channel"], prior=["user"]), torch.randn(20, 9)
    close_networks(trunk)
    before = trunk(features)
    for column in range(9):
        changed = features.clone()
        changed[:, column] += 1
        assert not torch.equal(trunk(changed), before), column


def test_the_embedding_gate_moves_the_domain_alone():
    trunk, features = pepnet(**NAMED), torch.randn(20, 9, requires_grad=True)
    factors = trunk.embedding_gate(torch.where(trunk.is_domain, features, features.detach()))
    mix = torch.randn(20, 9)
    (through_gate,) = torch.autograd.grad((factors * features.detach() * mix).sum(), features, retain_graph=True)
    assert through_gate.any(0).nonzero().flatten().tolist() == [0, 2, 3]
    with torch.no_grad():  # a network that lets the scaled features through: the whole gradient of e = g * x
        open_gates = PEPNet(9, 1, layers=[9], gate_hidden=7, domain=["channel", "price"], prior=["user"])
        open_gates.arrange(LAYOUT)
        open_gates.embedding_gate.load_state_dict(trunk.embedding_gate.state_dict())
        open_gates.layers[0].layers[0].weight.copy_(torch.eye(9)[None])
        open_gates.layers[0].layers[0].bias.fill_(100.0)  # the ReLU stays open
        open_gates.gates[0][2].weight.zero_()
        open_gates.gates[0][2].bias.zero_()
    (found,) = torch.autograd.grad((open_gates(features)[:, 0] * mix).sum(), features)
    torch.testing.assert_close(found, through_gate + factors.detach() * mix)


def test_the_names_are_no_part_of_the_state():
    named, plain = pepnet(**NAMED), PEPNet(9, 3, layers=[5, 4], gate_hidden=7)
    plain.load_state_dict(named.state_dict())
    assert not plain(torch.randn(2, 9)).isnan().any()


@pytest.mark.parametrize("arguments", [{"layers": [5]}, {"layers": [8, 8, 8], "gate_hidden": 3}])
def test_the_contract_with_any_layers(arguments):
    assert_trunk_contract(PEPNet, **arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": []}, "PEPNet: layers must name at least one width, but found none"),
        ({"layers": [0, 4]}, r"Layer widths must be at least 1, but found \[0, 4\]"),
        ({"gate_hidden": 0}, "PEPNet: gate_hidden must be at least 1, but found 0"),
        ({"domain": []}, "PEPNet: domain must name at least one feature; leave it out for all features"),
        ({"prior": []}, "PEPNet: prior must name at least one feature; leave it out for all features"),
    ],
)
def test_pepnet_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        PEPNet(9, 2, **arguments)


def test_pepnet_refuses_names_that_are_not_there():
    with pytest.raises(ValueError, match=r"PEPNet: prior: 'usre' is no part .*; did you mean 'user'\?"):
        pepnet(prior=["usre"])
    with pytest.raises(ValueError, match=r"does not know yet where its features \{'domain': \['channel'\].*arrange\("):
        PEPNet(9, 2, domain=["channel"])(torch.randn(2, 9))
    with pytest.raises(ValueError, match="PEPNet reads 8 features, but the layout has 9"):
        PEPNet(8, 2).arrange(LAYOUT)
    with pytest.raises(ValueError, match=r"PEPNet mixes all features, so every task .* own ones of \['a', 'b'\]"):
        PEPNet(9, 2).arrange(Layout(LAYOUT.columns, {"a": {"shop": "user"}, "b": {"shop": "channel"}}))


@pytest.mark.parametrize("names", [{"domain": ["channel"]}, {"prior": ["user"]}])
def test_pepnet_refuses_a_second_layout_that_is_another(names):
    trunk = pepnet(**names)
    before = trunk(torch.ones(2, 9))
    trunk.arrange(Layout(dict(LAYOUT.columns)))
    turned = Layout(LAYOUT.columns | {"channel": (4, 5), "user": (2, 3)})
    with pytest.raises(ValueError, match=r"PEPNet's layers have learnt \{'domain': .* in other places of the vector"):
        trunk.arrange(turned)
    assert torch.equal(trunk(torch.ones(2, 9)), before)


@pytest.mark.parametrize("bound", [1, 2**40], ids=["task by task", "at once"])
def test_a_gate_scales_alike_however_large_the_product(monkeypatch, bound):
    """Against factors times vectors, in float64; gradients of all three too."""
    monkeypatch.setattr(each_linear, "BATCHED_BYTES", bound)
    torch.manual_seed(0)
    gate = GateUnit(5, 7, 3 * 4).double()
    made, x = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 3, 4), (6, 5)))
    inputs = (made, x, *gate.parameters())
    found, expected = gate.scaled(made, x), made * gate(x).view(6, 3, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    weight = torch.randn_like(expected)
    for one, other in zip(*(torch.autograd.grad(each, inputs, weight) for each in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
