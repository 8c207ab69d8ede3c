"""AdaTT-sp against a slow float64 reference, and what remains of it without the experts of others."""

import math

import pytest
import torch

from tests.trunks.banks import assert_equals_written_out, expert, force, gate, mix, moves, network
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import AdaTT


def reference(trunk, row):
    """The paper's two sums: the gate over all tasks' experts, and the residual of a task's own."""
    tasks, number = [row] * trunk.num_tasks, len(trunk.levels[0].experts.layers[0].bias) // trunk.num_tasks
    for level in trunk.levels:
        experts = [expert(level.experts, t * number + i, x) for t, x in enumerate(tasks) for i in range(number)]
        weights = level.own.tolist() if number > 1 else [[1.0]] * trunk.num_tasks
        fused = [mix(gate(level.gates, t, x), experts) for t, x in enumerate(tasks)]
        own = [mix(weights[t], experts[t * number : (t + 1) * number]) for t in range(trunk.num_tasks)]
        tasks = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(fused, own, strict=True)]
    return tasks


@pytest.mark.parametrize(
    ("num_tasks", "levels", "own"),
    [(1, [[3]], 1), (2, [[5, 3], [4]], 1), (3, [[4], [5], [2]], 2), (2, [[4], [3, 5]], 3)],
)
def test_adatt_equals_the_sums_written_out(num_tasks, levels, own):
    torch.manual_seed(0)
    assert_equals_written_out(AdaTT(6, num_tasks, levels=levels, task_experts=own), reference)


def test_without_the_experts_of_others_and_the_residual_it_is_a_network_for_each_task():
    trunk, features = AdaTT(6, 3, levels=[[8, 7], [4]], task_experts=2), torch.randn(40, 6)
    for level in trunk.levels:
        torch.nn.init.zeros_(level.own)
        for task in range(3):
            force(level.gates, task, 2 * task + 1)
    found = trunk(features)
    for task in range(3):
        first, second = (network(level.experts, 2 * task + 1) for level in trunk.levels)
        torch.testing.assert_close(found[:, task], second(first(features)))


def test_without_the_experts_of_others_the_residual_doubles_a_task_of_one_expert():
    torch.manual_seed(0)
    trunk, features = AdaTT(6, 3, levels=[[8], [4]]), torch.randn(40, 6)
    for level in trunk.levels:
        for task in range(3):
            force(level.gates, task, task)
    found = trunk(features)
    for task in range(3):
        first, second = (network(level.experts, task) for level in trunk.levels)
        torch.testing.assert_close(found[:, task], 2 * second(2 * first(features)))
    moved = moves(found[:, 1], [level.experts.layers[0] for level in trunk.levels])
    assert moved == [[False, True, False]] * 2


def test_the_residual_takes_a_tasks_own_experts_alone():
    """Gates on task 0's expert: every task has that and, beside it, only what is its own."""
    trunk, features = AdaTT(6, 3, levels=[[4]]), torch.randn(10, 6)
    for task in range(3):
        force(trunk.levels[0].gates, task, 0)
    made = [network(trunk.levels[0].experts, n)(features) for n in range(3)]
    torch.testing.assert_close(trunk(features), torch.stack([made[0] + each for each in made], dim=1))


def test_a_task_reaches_every_tasks_experts_through_its_gate():
    torch.manual_seed(0)
    trunk = AdaTT(6, 3, levels=[[8], [8]])
    moved = moves(trunk(torch.randn(40, 6))[:, 1], [level.experts.layers[0] for level in trunk.levels])
    assert moved == [[True, True, True]] * 2


@pytest.mark.parametrize("own", [2, 4, 50])
def test_the_residuals_weights_start_within_the_root_of_one_over_their_number(own):
    torch.manual_seed(0)
    weights = AdaTT(6, 40, levels=[[2]], task_experts=own).levels[0].own
    bound = math.sqrt(1 / own)
    assert weights.shape == (40, own)
    assert weights.abs().max() <= bound
    assert weights.min() < -0.8 * bound
    assert weights.max() > 0.8 * bound


def test_one_expert_a_task_leaves_no_weight_to_learn_or_to_save():
    trunk = AdaTT(6, 3)
    assert not [name for name in trunk.state_dict() if name.endswith("own")]
    assert not [name for name, _ in trunk.named_parameters() if name.endswith("own")]


def test_gate_dropout_acts_in_training_alone():
    trunk, features = AdaTT(6, 2, levels=[[8], [8]], gate_dropout=0.5), torch.randn(20, 6)
    assert not torch.equal(trunk(features), trunk(features))
    trunk.eval()
    assert torch.equal(trunk(features), trunk(features))
    assert_equals_written_out(trunk, reference)


@pytest.mark.parametrize(
    "arguments",
    [{"levels": [[8]] * 3}, {"levels": [[8, 4], [4]], "task_experts": 2}, {"levels": [[8], [4]], "gate_dropout": 0.3}],
)
def test_the_contract_at_any_depth(arguments):
    assert_trunk_contract(AdaTT, **arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"levels": []}, r"AdaTT: levels must name the widths .*, such as \[\[256\], \[128\]\], but found \[\]"),
        ({"levels": [[8], []]}, r"AdaTT: levels must name the widths .*, but found \[\[8\], \[\]\]"),
        ({"levels": [8, 4]}, r"AdaTT: levels must name the widths .*, but found \[8, 4\]"),
        ({"levels": [[0], [4]]}, r"Layer widths must be at least 1, but found \[0\]"),
        ({"levels": [[4], [0]]}, r"AdaTT, levels: Layer widths must be at least 1, but found \[0\]"),
        ({"task_experts": 0}, "AdaTT: task_experts must be at least 1, but found 0"),
        ({"gate_dropout": 1.5}, r"gate dropout must lie in \[0, 1\), but found 1.5"),
    ],
)
def test_adatt_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        AdaTT(6, 2, **arguments)
