"""CGC and PLE against a slow float64 reference, and what they are without own experts, or with one shared expert."""

import pytest
import torch

from tests.trunks.banks import assert_equals_written_out, expert, force, gate, mix, mmoe_of, moves, network
from torchrec_mtl.experts import Gates
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import CGC, PLE, SharedBottom


def reference(trunk, row):
    """Level by level, as the paper has it: a task's gate over its own and the shared experts, the shared over all."""
    tasks, common = [row] * trunk.num_tasks, row
    for depth, level in enumerate(trunk.levels):
        shared = [expert(level.shared, e, common) for e in range(len(level.shared.layers[0].bias))]
        number = len(level.own.layers[0].bias) // trunk.num_tasks if level.own else 0
        own = [[expert(level.own, t * number + i, x) for i in range(number)] for t, x in enumerate(tasks)]
        new = [mix(gate(level.gates, t, x), own[t] + shared) for t, x in enumerate(tasks)]
        if depth + 1 < len(trunk.levels):
            common = mix(gate(level.shared_gate, 0, common), [each for bank in own for each in bank] + shared)
        tasks = new
    return tasks


@pytest.mark.parametrize(
    ("num_tasks", "levels", "shared", "own"),
    [
        (1, [[3]], 1, 1),
        (2, [[5, 3], [4]], 2, 1),
        (3, [[4], [5], [2]], 1, 2),
        (2, [[4], [3, 5]], 3, 0),
        (3, [[4, 2]], 2, 3),
    ],
)
def test_ple_equals_the_sums_written_out(num_tasks, levels, shared, own):
    torch.manual_seed(0)
    assert_equals_written_out(PLE(6, num_tasks, levels=levels, shared_experts=shared, task_experts=own), reference)


@pytest.mark.parametrize("own", [0, 1, 2])
def test_cgc_equals_the_sum_written_out(own):
    torch.manual_seed(0)
    assert_equals_written_out(CGC(6, 3, layers=[5, 4], shared_experts=2, task_experts=own), reference)


def test_cgc_is_a_ple_of_one_level():
    cgc, ple = CGC(6, 2, layers=[8, 4], task_experts=2), PLE(6, 2, levels=[[8, 4]], task_experts=2)
    ple.load_state_dict(cgc.state_dict())
    features = torch.randn(10, 6)
    assert torch.equal(cgc(features), ple(features))


def test_cgc_without_own_experts_is_mmoe():
    cgc, features = CGC(6, 3, layers=[5], shared_experts=4, task_experts=0), torch.randn(10, 6)
    torch.testing.assert_close(cgc(features), mmoe_of(cgc.levels[0].shared, cgc.levels[0].gates)(features))


def test_a_level_of_ple_without_own_experts_is_mmoe_with_one_more_gate():
    level = PLE(6, 3, levels=[[5], [4]], shared_experts=4, task_experts=0).levels[0]
    gates = Gates(4, 6, 4)
    with torch.no_grad():
        for mine, tasks, shared in zip(*(g.parameters() for g in (gates, level.gates, level.shared_gate)), strict=True):
            mine.copy_(torch.cat([tasks, shared]))
    features = torch.randn(10, 6)
    tasks, common = level(features, features)
    torch.testing.assert_close(torch.cat([tasks, common[:, None]], dim=1), mmoe_of(level.shared, gates)(features))


def test_ple_without_own_experts_is_mmoe_upon_mmoe_where_gates_see_the_shared_vector():
    ple, features = PLE(6, 3, levels=[[5], [4]], shared_experts=2, task_experts=0), torch.randn(10, 6)
    first, second = ple.levels
    with torch.no_grad():  # then every task's vector after the first level is the shared one
        for tasks, shared in zip(first.gates.parameters(), first.shared_gate.parameters(), strict=True):
            tasks.copy_(shared.expand_as(tasks))
    between = mmoe_of(first.shared, first.gates)(features)
    expected = mmoe_of(second.shared, second.gates)(between[:, 0])
    torch.testing.assert_close(ple(features), expected)


def test_cgc_of_one_shared_expert_alone_is_a_shared_bottom():
    cgc, bottom = CGC(6, 3, layers=[8, 4], shared_experts=1, task_experts=0), SharedBottom(6, 3, layers=[8, 4])
    bottom.bottom.load_state_dict(network(cgc.levels[0].shared, 0).state_dict())
    features = torch.randn(10, 6)
    torch.testing.assert_close(cgc(features), bottom(features).expand(-1, 3, -1))


def test_gates_forced_on_own_experts_make_single_task_networks():
    torch.manual_seed(0)
    ple, features = PLE(6, 3, levels=[[8], [4]], task_experts=2), torch.randn(40, 6)
    for level in ple.levels:
        for task in range(3):
            force(level.gates, task, 1)  # the second of its own; each task has expert 2 t + 1 of the bank
    networks = [[network(level.own, 2 * task + 1) for level in ple.levels] for task in range(3)]
    found = ple(features)
    for task, (first, second) in enumerate(networks):
        torch.testing.assert_close(found[:, task], second(first(features)))
    moved = moves(found[:, 1], [level.own.layers[0] for level in ple.levels])
    assert moved == [[False, False, False, True, False, False]] * 2


def test_at_the_last_level_a_task_moves_no_other_tasks_experts():
    torch.manual_seed(0)
    ple = PLE(6, 3, levels=[[8], [8]], task_experts=1)
    moved = moves(ple(torch.randn(40, 6))[:, 1], [level.own.layers[0] for level in ple.levels])
    assert moved == [[True, True, True], [False, True, False]]  # below, through the shared gate, it moves them all


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_last_level_has_no_shared_gate(depth):
    levels = PLE(6, 2, levels=[[4]] * depth).levels
    assert [level.shared_gate is None for level in levels] == [False] * (depth - 1) + [True]


def test_gate_dropout_acts_in_training_alone():
    trunk, features = PLE(6, 2, levels=[[8], [8]], gate_dropout=0.5), torch.randn(20, 6)
    assert not torch.equal(trunk(features), trunk(features))
    trunk.eval()
    assert torch.equal(trunk(features), trunk(features))
    assert_equals_written_out(trunk, reference)


@pytest.mark.parametrize(
    "arguments",
    [
        {"levels": [[8]] * 3},
        {"levels": [[8, 4], [4]], "shared_experts": 1, "task_experts": 2},
        {"levels": [[8], [4]], "task_experts": 0},
        {"levels": [[8], [4]], "gate_dropout": 0.3},
    ],
)
def test_the_contract_at_any_depth(arguments):
    assert_trunk_contract(PLE, **arguments)


@pytest.mark.parametrize(
    ("trunk_class", "arguments", "text"),
    [
        (PLE, {"levels": []}, r"PLE: levels must name the widths .*, such as \[\[256\], \[128\]\], but found \[\]"),
        (PLE, {"levels": [[8], []]}, r"PLE: levels must name the widths .*, but found \[\[8\], \[\]\]"),
        (PLE, {"levels": [8, 4]}, r"PLE: levels must name the widths .*, but found \[8, 4\]"),
        (PLE, {"levels": [[0], [4]]}, r"Layer widths must be at least 1, but found \[0\]"),
        (PLE, {"levels": [[4], [0]]}, r"PLE, levels: Layer widths must be at least 1, but found \[0\]"),
        (PLE, {"shared_experts": 0}, "PLE: shared_experts must be at least 1, but found 0"),
        (PLE, {"task_experts": -1}, "PLE: task_experts must be at least 0, but found -1"),
        (PLE, {"gate_dropout": -0.1}, r"gate dropout must lie in \[0, 1\), but found -0.1"),
        (CGC, {"layers": []}, "CGC: layers must name at least one width, but found none"),
        (CGC, {"layers": [8, 0]}, r"CGC, layers: Layer widths must be at least 1, but found \[8, 0\]"),
        (CGC, {"shared_experts": 0}, "CGC: shared_experts must be at least 1, but found 0"),
        (CGC, {"task_experts": -1}, "CGC: task_experts must be at least 0, but found -1"),
    ],
)
def test_ple_and_cgc_refuse(trunk_class, arguments, text):
    with pytest.raises(ValueError, match=text):
        trunk_class(6, 2, **arguments)
