"""MMoE against a slow float64 reference, and its identities."""

import math
import re

import pytest
import torch

from torchrec_mtl.mlp import LayerOptions
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import MMoE, MultiLevelMMoE, SharedBottom, Trunk


def doubled(trunk):
    return {name: value.double() for name, value in trunk.state_dict().items()}


def affine(weight, bias, x):
    return [float(bias[j]) + sum(float(weight[j, i]) * x[i] for i in range(len(x))) for j in range(len(bias))]


def relu(x):
    return [max(value, 0.0) for value in x]


def reference(state, level, row, read, num_layers):
    """One row of a level, in Python floats and loops: h_g = sum_e softmax(W_g x + b_g)_e f_e(x_e)."""
    experts = []
    for e, x in enumerate(read):
        for layer in range(num_layers):
            key = f"{level}.experts.layers.{layer}"
            x = relu(affine(state[f"{key}.weight"][e], state[f"{key}.bias"][e], x))  # noqa: PLW2901
        experts.append(x)
    result = []
    for weight, bias in zip(state[f"{level}.gates.scores.weight"], state[f"{level}.gates.scores.bias"], strict=True):
        scores = affine(weight, bias, row)
        powers = [math.exp(score - max(scores)) for score in scores]
        gate = [power / sum(powers) for power in powers]
        result.append([sum(g * expert[h] for g, expert in zip(gate, experts, strict=True)) for h in range(len(x))])
    return result


@pytest.mark.parametrize(("num_tasks", "num_experts", "layers"), [(1, 1, [3]), (2, 4, [5, 3]), (3, 2, [4, 4, 2])])
def test_mmoe_equals_the_sum_written_out(num_tasks, num_experts, layers):
    torch.manual_seed(0)
    trunk = MMoE(6, num_tasks, num_experts=num_experts, layers=layers)
    features = torch.randn(4, 6) * 2
    state, rows = doubled(trunk), features.double().tolist()
    expected = [reference(state, "levels.0", row, [row] * num_experts, len(layers)) for row in rows]
    assert torch.tensor(expected).shape == (4, num_tasks, layers[-1])
    torch.testing.assert_close(trunk(features), torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("levels", [[[5], [3]], [[4, 5], [2], [3, 2]]])
def test_levels_equal_the_sums_written_out(levels):
    torch.manual_seed(0)
    trunk = MultiLevelMMoE(6, 2, levels=levels, num_experts=3)
    features = torch.randn(4, 6) * 2
    expected = []
    for row in features.double().tolist():
        read = [row] * 3  # what each expert reads
        for depth, layers in enumerate(levels):
            read = reference(doubled(trunk), f"levels.{depth}", row, read, len(layers))
        expected.append(read)
    torch.testing.assert_close(trunk(features), torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_contract_with_levels_and_gate_dropout(dropout):
    assert_trunk_contract(MultiLevelMMoE, levels=[[8], [6, 4], [5]], gate_dropout=dropout)
    assert_trunk_contract(MMoE, layers=[8], gate_dropout=dropout)


def test_gates_sum_to_one():
    """Experts that all give 1 in every place: each task's mixture is then the sum of its gates."""
    trunk = MMoE(6, 3, num_experts=4, layers=[2])
    with torch.no_grad():
        trunk.levels[0].experts.layers[0].weight.zero_()
        trunk.levels[0].experts.layers[0].bias.fill_(1.0)
        trunk.levels[0].gates.scores.weight.mul_(30)  # far from uniform
    torch.testing.assert_close(trunk(torch.randn(50, 6)), torch.ones(50, 3, 2))


def test_a_task_has_its_own_gate():
    """A gate that is wide open for one expert picks that expert alone, for that task alone."""
    trunk = MMoE(6, 2, num_experts=3, layers=[4])
    features = torch.randn(5, 6)
    with torch.no_grad():
        trunk.levels[0].gates.scores.weight.zero_()
        # task 0 takes expert 1, task 1 expert 2
        trunk.levels[0].gates.scores.bias.copy_(torch.tensor([[0.0, 100, 0], [0, 0, 100]]))
    experts = trunk.levels[0].experts(features)
    torch.testing.assert_close(trunk(features), experts[:, 1:])


def test_mmoe_of_one_expert_is_a_shared_bottom():
    mmoe, bottom = MMoE(6, 3, num_experts=1, layers=[8, 4]), SharedBottom(6, 3, layers=[8, 4])
    with torch.no_grad():
        for bank, layer in zip(mmoe.levels[0].experts.layers, (bottom.bottom[0], bottom.bottom[2]), strict=True):
            bank.weight.copy_(layer.weight.unsqueeze(0))
            bank.bias.copy_(layer.bias.unsqueeze(0))
    features = torch.randn(10, 6)
    torch.testing.assert_close(mmoe(features), bottom(features).expand(-1, 3, -1))


@pytest.mark.parametrize("arguments", [{"options": LayerOptions(dropout=0.5)}, {"gate_dropout": 0.5}])
def test_dropout_acts_in_training_alone(arguments):
    trunk = MMoE(6, 2, layers=[32], **arguments)
    features = torch.randn(4, 6)
    assert not torch.equal(trunk(features), trunk(features))
    trunk.eval()
    assert torch.equal(trunk(features), trunk(features))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": []}, "MMoE: layers must name at least one width, but found none"),
        ({"num_experts": 0}, "MMoE: num_experts must be at least 1, but found 0"),
        ({"layers": [8, 0]}, r"MMoE, layers: Layer widths must be at least 1, but found \[8, 0\]"),
        ({"layers": [0, 8]}, r"Layer widths must be at least 1, but found \[0, 8\]"),
        ({"gate_dropout": 1.0}, r"gate dropout must lie in \[0, 1\), but found 1.0"),
    ],
)
def test_mmoe_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        MMoE(6, 2, **arguments)


@pytest.mark.parametrize("levels", [[], [[8], []], [8, 4]])
def test_levels_refuse(levels):
    text = r"MultiLevelMMoE: levels must name the widths .* such as \[\[256\], \[128\]\], but found "
    with pytest.raises(ValueError, match=text + re.escape(str(levels))):
        MultiLevelMMoE(6, 2, levels=levels)


def test_a_trunk_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Trunk(1, 1, 1)
