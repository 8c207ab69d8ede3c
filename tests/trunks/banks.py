"""Banks of experts and gates, read slowly: one row, in Python floats and loops; and as the modules that they stand for.

The one place of the tests of mixtures that knows how banks hold their parameters.
"""

import math

import torch
from torch import nn

from torchrec_mtl.trunks import MMoE


def affine(layer, n, x):
    """W_n x + b_n of an EachLinear."""
    weight, bias = layer.weight[n].tolist(), layer.bias[n].tolist()
    return [bias[j] + sum(weight[j][i] * x[i] for i in range(len(x))) for j in range(len(bias))]


def expert(experts, n, x):
    """Expert n of a bank with ReLU after each layer."""
    for layer in experts.layers:
        x = [max(value, 0.0) for value in affine(layer, n, x)]
    return x


def gate(gates, t, x):
    """Weights of gate t."""
    scores = affine(gates.scores, t, x)
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def mix(weights, vectors):
    """Weighted sum of vectors."""
    assert len(weights) == len(vectors)
    return [sum(w * v[h] for w, v in zip(weights, vectors, strict=True)) for h in range(len(vectors[0]))]


def assert_equals_written_out(trunk, reference, rows=4):
    """Compares the trunk in float64 with ``reference(trunk, row) -> T lists of H numbers``."""
    trunk = trunk.double()
    features = 2 * torch.randn(rows, trunk.in_features, dtype=torch.float64)
    expected = torch.tensor([reference(trunk, row) for row in features.tolist()], dtype=torch.float64)
    assert expected.shape == (rows, trunk.num_tasks, trunk.out_features)
    assert expected.count_nonzero() > 0
    made = trunk(features).expand_as(expected)  # one vector may be for all tasks
    torch.testing.assert_close(made, expected, atol=1e-12, rtol=1e-10)


def network(experts, n):
    """Expert n as a plain stack of Linear and ReLU."""
    modules = []
    for layer in experts.layers:
        linear = nn.Linear(layer.weight.shape[2], layer.weight.shape[1])
        linear.load_state_dict({"weight": layer.weight[n], "bias": layer.bias[n]})
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules)


def mmoe_of(experts, gates):
    """An MMoE of one layer that has the parameters of a bank of experts and of its gates."""
    (layer,), scores = experts.layers, gates.scores
    (number, width, in_features), tasks = layer.weight.shape, len(scores.bias)
    mmoe = MMoE(in_features, tasks, num_experts=number, layers=[width])
    mmoe.levels[0].experts.load_state_dict(experts.state_dict())
    mmoe.levels[0].gates.load_state_dict(gates.state_dict())
    return mmoe


@torch.no_grad()
def force(gates, t, n):
    """Opens gate t for expert n alone, whatever it reads: exp(-1000) is 0."""
    gates.scores.weight[t] = 0
    gates.scores.bias[t] = -1000
    gates.scores.bias[t, n] = 0


def moves(output, layers):
    """Which experts an output moves: for each EachLinear, whether each of its weights has a gradient."""
    output.sum().backward()
    return [[bool(weight.any()) for weight in layer.weight.grad] for layer in layers]
