"""Banks of experts and gates: each expert is an MLP of its own, whatever way it is computed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.test_each_linear import assert_same, gradients, path  # noqa: F401  # a fixture
from tests.ways import WAYS, forced
from torchrec_mtl.experts import Experts, Gates
from torchrec_mtl.mlp import LayerOptions, mlp

SIZES = st.integers(1, 5)
OPTIONS = [
    LayerOptions(),
    LayerOptions(activation=nn.Tanh, dropout=0.4),
    LayerOptions(norm=nn.LayerNorm),
    LayerOptions(norm=nn.BatchNorm1d, activation=nn.PReLU),
    LayerOptions(activation=lambda: nn.Softmax(dim=1)),
]


def separate(experts, in_features, layers, options):
    """The experts as MLPs that hold the same numbers, each by itself."""
    networks = []
    for n in range(len(experts.after[0])):
        network = mlp(in_features, layers, options).double()
        linears = [each for each in network if isinstance(each, nn.Linear)]
        for linear, bank in zip(linears, experts.layers, strict=True):
            linear.load_state_dict({"weight": bank.weight[n], "bias": bank.bias[n]})
        networks.append(network.train(experts.training))
    return networks


def together(networks, x):
    inputs = [x] * len(networks) if x.ndim == 2 else x.unbind(1)
    return torch.stack([network(part) for network, part in zip(networks, inputs, strict=True)], dim=1)


@pytest.mark.parametrize("way", WAYS)
@given(
    rows=st.integers(0, 6), number=SIZES, width=SIZES, layers=st.lists(SIZES, min_size=1, max_size=3), own=st.booleans()
)
@settings(deadline=None, max_examples=40)
def test_each_expert_is_a_network_of_its_own(way, rows, number, width, layers, own):
    torch.manual_seed(rows)
    experts = Experts(number, width, layers).double()
    networks = separate(experts, width, layers, LayerOptions())
    x = torch.randn(rows, *([number] if own else []), width, dtype=torch.float64, requires_grad=True)
    with forced(way):
        found = experts(x)
    expected = together(networks, x)
    assert found.shape == (rows, number, experts.out_features)
    assert_same(found, expected)
    assert_same(gradients(found, [x])[0], gradients(expected, [x])[0])
    for depth, bank in enumerate(experts.layers):
        theirs = [[each for each in network if isinstance(each, nn.Linear)][depth] for network in networks]
        weights = gradients(expected, [each.weight for each in theirs])
        assert_same(gradients(found, [bank.weight])[0], torch.stack(weights))


@pytest.mark.parametrize("options", OPTIONS[2:], ids=["layer_norm", "batch_norm", "softmax"])
def test_options_act_on_each_expert_by_itself(path, options):  # noqa: F811
    torch.manual_seed(0)
    experts = Experts(3, 4, [5, 2], options).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    assert_same(experts(x), together(separate(experts, 4, [5, 2], options), x))


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "dropout", "layer_norm", "batch_norm", "softmax"])
def test_the_ways_share_one_state(options):
    torch.manual_seed(0)
    experts = Experts(3, 4, [5, 2], options).eval()
    x, found = torch.randn(6, 4), []
    for way in WAYS:
        with forced(way):
            found.append(experts(x))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=1e-6)


def test_dropout_drops_its_share_in_training_alone(path):  # noqa: F811
    torch.manual_seed(0)
    experts = Experts(3, 4, [50], LayerOptions(activation=nn.Softplus, dropout=0.3))
    dropped = experts(torch.randn(200, 4)) == 0  # a softplus is never 0
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(dropped[:, 0], dropped[:, 1])
    assert (experts.eval()(torch.randn(200, 4)) > 0).all()


def test_a_trace_takes_any_number_of_rows():
    experts = Experts(2, 6, [5, 4])
    traced = torch.jit.trace(experts, torch.randn(3, 6))
    x = torch.randn(50_000, 6)
    torch.testing.assert_close(traced(x), experts(x))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 4, [3]), r"at least one expert and one layer are needed, but found number=0 and layers=\[3\]"),
        ((2, 4, []), r"at least one expert and one layer are needed, but found number=2 and layers=\[\]"),
        ((2, 4, [3, 0]), r"Layer widths must be at least 1, but found \[3, 0\]"),
        ((2, 0, [3]), "every size must be at least 1, but found number=2, in_features=0 and out_features=3"),
    ],
)
def test_experts_refuse(arguments, text):
    with pytest.raises(ValueError, match=text):
        Experts(*arguments)


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4)])
def test_a_gate_is_a_softmax_of_its_own(path, shape):  # noqa: F811
    torch.manual_seed(0)
    gates = Gates(3, 4, 6).double()
    x = torch.randn(shape, dtype=torch.float64)
    found = gates(x)
    for t in range(3):
        read = x if x.ndim == 2 else x[:, t]
        powers = (read @ gates.scores.weight[t].T + gates.scores.bias[t]).exp()
        assert_same(found[:, t], powers / powers.sum(1, keepdim=True))


def test_dropped_experts_leave_their_share_to_the_others():
    torch.manual_seed(0)
    gates, x = Gates(2, 4, 5, dropout=0.4).double(), torch.randn(4000, 4, dtype=torch.float64)
    found, full = gates(x), gates.eval()(x)
    kept = found > 0
    assert kept.any(-1).all()
    assert_same(found, torch.where(kept, full, 0) / torch.where(kept, full, 0).sum(-1, keepdim=True))
    # each is dropped with 0.4, but where all five would be, none is
    assert (~kept).double().mean().item() == pytest.approx(0.4 - 0.4**5, abs=0.01)
    assert (full > 0).all()
    assert_same(full.sum(-1), torch.ones(4000, 2, dtype=torch.float64))


def test_a_single_expert_is_never_dropped():
    assert torch.equal(Gates(2, 4, 1, dropout=0.9)(torch.randn(50, 4)), torch.ones(50, 2, 1))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.inf])
def test_gates_refuse(dropout):
    with pytest.raises(ValueError, match=rf"gate dropout must lie in \[0, 1\), but found {dropout}"):
        Gates(2, 4, 3, dropout)
