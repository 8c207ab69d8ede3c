"""OMoE against a slow float64 reference, and as an MMoE whose gates are all the same."""

import pytest
import torch

from tests.trunks.banks import assert_equals_written_out, expert, force, gate, mix, mmoe_of, network
from torchrec_mtl.experts import Gates
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import OMoE, SharedBottom


def reference(trunk, row):
    """h_t = sum_e softmax(W x + b)_e f_e(x), the same for every task."""
    experts = [expert(trunk.experts, e, row) for e in range(len(trunk.experts.layers[0].bias))]
    return [mix(gate(trunk.gates, 0, row), experts)] * trunk.num_tasks


@pytest.mark.parametrize(("num_tasks", "num_experts", "layers"), [(1, 1, [3]), (2, 4, [5, 3]), (3, 2, [4, 4, 2])])
def test_omoe_equals_the_sum_written_out(num_tasks, num_experts, layers):
    torch.manual_seed(0)
    assert_equals_written_out(OMoE(6, num_tasks, num_experts=num_experts, layers=layers), reference)


def test_omoe_is_an_mmoe_whose_gates_are_the_same():
    trunk, gates = OMoE(6, 3, num_experts=4, layers=[5]), Gates(3, 6, 4)
    with torch.no_grad():
        for mine, its in zip(gates.parameters(), trunk.gates.parameters(), strict=True):
            mine.copy_(its.expand_as(mine))
    features = torch.randn(10, 6)
    expected = mmoe_of(trunk.experts, gates)(features)
    torch.testing.assert_close(trunk(features).expand_as(expected), expected)


def test_omoe_of_one_expert_is_a_shared_bottom():
    trunk, bottom = OMoE(6, 3, num_experts=1, layers=[8, 4]), SharedBottom(6, 3, layers=[8, 4])
    bottom.bottom.load_state_dict(network(trunk.experts, 0).state_dict())
    features = torch.randn(10, 6)
    torch.testing.assert_close(trunk(features), bottom(features))


def test_the_gate_picks_one_expert_for_all_tasks():
    trunk, features = OMoE(6, 2, num_experts=3, layers=[4]), torch.randn(5, 6)
    force(trunk.gates, 0, 2)
    picked = network(trunk.experts, 2)(features)
    torch.testing.assert_close(trunk(features), picked.unsqueeze(1))


def test_gate_dropout_acts_in_training_alone():
    trunk, features = OMoE(6, 2, layers=[32], gate_dropout=0.5), torch.randn(20, 6)
    assert not torch.equal(trunk(features), trunk(features))
    trunk.eval()
    assert torch.equal(trunk(features), trunk(features))
    assert_equals_written_out(trunk, reference)


def test_the_contract_with_gate_dropout():
    assert_trunk_contract(OMoE, num_experts=3, layers=[8], gate_dropout=0.3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": []}, "OMoE: layers must name at least one width, but found none"),
        ({"num_experts": 0}, "OMoE: num_experts must be at least 1, but found 0"),
        ({"layers": [0, 8]}, r"Layer widths must be at least 1, but found \[0, 8\]"),
        ({"layers": [8, 0]}, r"OMoE, layers: Layer widths must be at least 1, but found \[8, 0\]"),
        ({"gate_dropout": 1.0}, r"gate dropout must lie in \[0, 1\), but found 1.0"),
    ],
)
def test_omoe_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        OMoE(6, 2, **arguments)
