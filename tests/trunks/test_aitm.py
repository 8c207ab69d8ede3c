"""AITM against a slow float64 reference, and who reaches whom."""

import pytest
import torch

from tests.trunks.by_hand import affine, attention, expert, floats, relu
from torchrec_mtl.mlp import LayerOptions
from torchrec_mtl.trunks import AITM


def reference(trunk, row, num_layers):
    """One row: z_1 = q_1, z_t = AIT(q_t, ReLU(W z_{t-1} + b))."""
    state = floats(trunk)
    found = [expert(state, "own", row, num_layers, 0)]
    for t in range(1, trunk.num_tasks):
        key = f"transfers.{t - 1}.0"
        told = relu(affine(state[f"{key}.weight"], state[f"{key}.bias"], found[-1]))
        found.append(attention(state, "fusion", [expert(state, "own", row, num_layers, t), told]))
    return found


@pytest.mark.parametrize(("num_tasks", "layers"), [(1, [3]), (2, [5, 3]), (4, [4])])
def test_aitm_equals_the_equations_written_out(num_tasks, layers):
    torch.manual_seed(0)
    trunk = AITM(6, num_tasks, layers=layers)
    features = torch.randn(4, 6) * 3
    expected = torch.tensor([reference(trunk, row, len(layers)) for row in features.double().tolist()])
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(trunk(features), expected, atol=1e-6, rtol=1e-5)


def test_the_first_task_is_a_plain_tower():
    trunk = AITM(6, 3, layers=[5, 4])
    features = torch.randn(7, 6)
    before = trunk(features)
    x = features
    for layer in trunk.own.layers:
        x = torch.relu(x @ layer.weight[0].T + layer.bias[0])
    torch.testing.assert_close(before[:, 0], x)
    with torch.no_grad():
        for parameter in (*trunk.transfers.parameters(), *trunk.fusion.parameters()):
            parameter.normal_()
    after = trunk(features)
    assert torch.equal(after[:, 0], before[:, 0])
    assert not torch.equal(after[:, 1], before[:, 1])


def test_one_task_has_nothing_to_pass_on():
    assert [name for name, _ in AITM(6, 1, layers=[4]).named_parameters()] == [
        "own.layers.0.weight",
        "own.layers.0.bias",
    ]


@pytest.mark.parametrize("task", [0, 1, 2])
def test_a_gradient_flows_to_earlier_tasks_and_no_later_one(task):
    torch.manual_seed(0)
    trunk = AITM(6, 3, layers=[8])
    trunk(torch.randn(20, 6))[:, task].sum().backward()
    reached = [bool(trunk.own.layers[0].weight.grad[t].any()) for t in range(3)]
    assert reached == [t <= task for t in range(3)]


def test_a_task_hears_of_the_first_through_the_second_alone():
    trunk = AITM(6, 3, layers=[8])
    features = torch.randn(5, 6)
    with torch.no_grad():
        for parameter in trunk.transfers[1].parameters():
            parameter.zero_()
        before = trunk(features)
        trunk.own.layers[0].weight[:2].normal_()
        after = trunk(features)
    assert torch.equal(after[:, 2], before[:, 2])
    assert not torch.equal(after[:, 1], before[:, 1])


def test_dropout_acts_on_what_is_passed_on_too():
    trunk = AITM(6, 2, layers=[32], options=LayerOptions(dropout=0.5))
    assert sum(isinstance(module, torch.nn.Dropout) for module in trunk.transfers.modules()) == 1
    features = torch.randn(4, 6)
    assert not torch.equal(trunk(features), trunk(features))
    trunk.eval()
    assert torch.equal(trunk(features), trunk(features))


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([], "AITM: layers must name at least one width, but found none"),
        ([8, 0], r"AITM, layers: Layer widths must be at least 1, but found \[8, 0\]"),
        ([0, 8], r"Layer widths must be at least 1, but found \[0, 8\]"),
    ],
)
def test_aitm_refuses(layers, text):
    with pytest.raises(ValueError, match=text):
        AITM(6, 2, layers=layers)
