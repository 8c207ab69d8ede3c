"""STEM against a slow float64 reference, whom its gradients reach, and the mixtures that it is without own tables."""

import pytest
import torch

from tests.trunks.banks import assert_equals_written_out, expert, force, gate, mix, network
from torchrec_mtl.layout import Layout
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import STEM, MMoE

# dense, a table without copies, and two tables of which each tower has a copy, in the order of a job
COLUMNS = {
    "dense": (0, 1),
    "user": (2, 3),
    "shop": (4, 5, 6),
    "brand": (7, 8),
    "shop:a": (9, 10, 11),
    "brand:a": (12, 13),
    "shop:b": (14, 15, 16),
    "brand:b": (17, 18),
    "shop:c": (19, 20, 21),
    "brand:c": (22, 23),
}
OWN = {tower: {"shop": f"shop:{tower}", "brand": f"brand:{tower}"} for tower in "abc"}
LAYOUT = Layout(COLUMNS, OWN)
FREE, SHARED = range(4), range(9)
COPIES = [range(9, 14), range(14, 19), range(19, 24)]


def stem(layout=LAYOUT, **arguments):
    torch.manual_seed(0)
    trunk = STEM(24, 3, **{"levels": [[5, 4]], **arguments})
    if layout is not None:
        trunk.arrange(layout)
    return trunk


def reference(trunk, row, free=FREE, shared=SHARED, copies=COPIES):
    """Level by level: every gate over all tasks' experts and the shared ones."""
    own = [[row[i] for i in columns] for columns in copies]
    common = [row[i] for i in shared]
    tasks = [[row[i] for i in free] + each for each in own]
    told = [common + each for each in own]
    for depth, level in enumerate(trunk.levels):
        number = len(level.own.layers[0].bias) // 3
        made = [expert(level.own, t * number + i, x) for t, x in enumerate(tasks) for i in range(number)]
        made += [expert(level.shared, e, common) for e in range(len(level.shared.layers[0].bias))]
        tasks = [mix(gate(level.gates, t, x), made) for t, x in enumerate(told)]
        if depth + 1 < len(trunk.levels):
            common = mix(gate(level.shared_gate, 0, common), made)
        told = [common + x for x in tasks]
    return tasks


CASES = [
    {"levels": [[3]]},
    {"levels": [[5, 3]], "shared_experts": 2, "task_experts": 2},
    {"levels": [[4], [5], [2]], "task_experts": 3},
]


@pytest.mark.parametrize("arguments", CASES)
def test_stem_equals_the_sums_written_out(arguments):
    assert_equals_written_out(stem(**arguments), reference)


@pytest.mark.parametrize("arguments", CASES)
def test_without_own_tables_every_expert_reads_the_whole_vector(arguments):
    everything = {"free": range(24), "shared": range(24), "copies": [range(0)] * 3}
    assert_equals_written_out(stem(None, **arguments), lambda trunk, row: reference(trunk, row, **everything))


def test_where_nothing_is_free_own_experts_read_the_copies_alone():
    columns = {"dense": (), "shop": (0, 1), "shop:a": (2, 3), "shop:b": (4, 5), "shop:c": (6, 7)}
    trunk = STEM(8, 3, levels=[[4]])
    trunk.arrange(Layout(columns, {tower: {"shop": f"shop:{tower}"} for tower in "abc"}))
    parts = {"free": [], "shared": range(2), "copies": [range(2, 4), range(4, 6), range(6, 8)]}
    assert_equals_written_out(trunk, lambda trunk, row: reference(trunk, row, **parts))


def gradients(trunk, task):
    """Of one task's output: the columns that move it, and ``{parameter: gradient}``."""
    features = torch.randn(60, 24, requires_grad=True)
    trunk.zero_grad()
    (trunk(features)[:, task] * torch.randn(60, trunk.out_features)).sum().backward()
    return features.grad, {name: parameter.grad for name, parameter in trunk.named_parameters()}


@pytest.mark.parametrize("levels", [[[8]], [[8], [8]], [[8], [6], [8]]])
@pytest.mark.parametrize("task", range(3))
def test_a_task_never_moves_another_tasks_features_experts_or_gate(levels, task):
    trunk = stem(levels=levels, task_experts=2)
    of_features, of_parameters = gradients(trunk, task)
    moved = of_features.any(0).nonzero().flatten().tolist()
    assert moved == [*SHARED, *COPIES[task]]
    for name, gradient in of_parameters.items():
        if ".own." in name or ".gates." in name:
            number = 2 if ".own." in name else 1
            others = [i for i in range(3 * number) if i // number != task]
            assert not gradient[others].any(), name
            assert gradient[task * number : (task + 1) * number].any(), name


def test_every_task_reads_every_tasks_features():
    trunk, features = stem(), torch.randn(30, 24)
    before = trunk(features)
    for columns in [*COPIES, SHARED]:
        changed = features.clone()
        changed[:, list(columns)] += 1
        assert (trunk(changed) != before).any(2).any(0).all(), "a task does not see them"


def test_gradients_are_those_of_the_mixture_for_what_is_the_tasks_own():
    """A finite difference along a task's own column: what is let through is the whole derivative."""
    trunk = stem(levels=[[8], [6]]).double()
    features, direction = torch.randn(10, 24, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
    direction[list(COPIES[1])] = torch.randn(5, dtype=torch.float64)
    features.requires_grad_()
    output = trunk(features)[:, 1]
    (found,) = torch.autograd.grad(output.sum(), features)

    def along(step):
        with torch.no_grad():
            return last_level(trunk, features + step * direction, features)[:, 1].sum()

    expected = (along(1e-6) - along(-1e-6)) / 2e-6
    torch.testing.assert_close((found @ direction).sum(), expected, atol=1e-6, rtol=1e-6)


def last_level(trunk, moved, still):
    """Task 1's output where only its own way moves: what others and the shared vector made of its copies is kept."""
    first, second = trunk.levels
    common, own = still[:, :9], torch.stack([still[:, list(c)] for c in COPIES], 1)
    own_moved = torch.stack([moved[:, list(c)] for c in COPIES], 1)

    def beside(one, each):
        return torch.cat([one.unsqueeze(1).expand(-1, 3, -1), each], 2)

    tasks, shared = first(beside(still[:, :4], own), common, beside(common, own))
    tasks_moved, _ = first(beside(still[:, :4], own_moved), common, beside(common, own_moved))
    tasks = torch.stack([tasks[:, 0], tasks_moved[:, 1], tasks[:, 2]], 1)
    return second(tasks, shared, beside(shared, tasks))[0]


def test_without_own_tables_it_is_an_mmoe_that_reads_all_experts():
    trunk, features = stem(None, levels=[[5, 4]], shared_experts=2, task_experts=2), torch.randn(10, 24)
    (level,) = trunk.levels
    mmoe = MMoE(24, 3, num_experts=8, layers=[5, 4])
    with torch.no_grad():
        for into, own, shared in zip(
            mmoe.levels[0].experts.parameters(), level.own.parameters(), level.shared.parameters(), strict=True
        ):
            into.copy_(torch.cat([own, shared]))
    mmoe.levels[0].gates.load_state_dict(level.gates.state_dict())
    torch.testing.assert_close(trunk(features), mmoe(features))


def test_gates_forced_on_own_experts_make_separate_networks_of_own_tables():
    trunk, features = stem(levels=[[5, 4]]), torch.randn(20, 24)
    (level,) = trunk.levels
    for task in range(3):
        force(level.gates, task, task)
    for task in range(3):
        alone = network(level.own, task)
        read = torch.cat([features[:, :4], features[:, list(COPIES[task])]], dim=1)
        torch.testing.assert_close(trunk(features)[:, task], alone(read))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_last_level_has_no_shared_gate(depth):
    levels = stem(levels=[[4]] * depth).levels
    assert [level.shared_gate is None for level in levels] == [False] * (depth - 1) + [True]


def test_every_parameter_gets_a_gradient_with_own_tables():
    trunk = stem(levels=[[8], [8]])
    (trunk(torch.randn(60, 24)) * torch.randn(60, 3, 8)).sum().backward()
    assert all(parameter.grad.any() for parameter in trunk.parameters())


@pytest.mark.parametrize(
    "arguments",
    [{"levels": [[8], [8]]}, {"levels": [[8, 4]], "shared_experts": 2, "task_experts": 2}, {"gate_dropout": 0.3}],
)
def test_the_contract_at_any_depth(arguments):
    assert_trunk_contract(STEM, **arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"levels": []}, r"STEM: levels must name the widths .* but found \[\]"),
        ({"levels": [8, 4]}, r"STEM: levels must name the widths .* but found \[8, 4\]"),
        ({"shared_experts": 0}, "STEM: shared_experts must be at least 1, but found 0"),
        ({"task_experts": 0}, "STEM: task_experts must be at least 1, but found 0"),
        ({"gate_dropout": 1.0}, r"gate dropout must lie in \[0, 1\), but found 1.0"),
    ],
)
def test_stem_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        STEM(24, 3, **arguments)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (OWN | {"c": {"shop": "shop:c"}}, r"features of its own for each of 3 towers.*\{'a': 5, 'b': 5, 'c': 3\}"),
        ({"a": OWN["a"], "b": OWN["b"]}, r"features of its own for each of 3 towers.*\{'a': 5, 'b': 5\}"),
        (OWN | {"c": OWN["b"]}, "STEM: two towers share a table that is declared as their own"),
        (
            OWN | {"c": {"shop": "shop:d"}},
            r"STEM: own features of tower 'c': 'shop:d' is no part .*did you mean 'shop:",
        ),
    ],
)
def test_stem_refuses_copies_that_do_not_match(own, text):
    with pytest.raises(ValueError, match=text):
        stem(Layout(COLUMNS, own))


def test_a_second_model_keeps_what_stem_has_learnt():
    trunk = stem(levels=[[5], [4]])
    learnt = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.arrange(Layout(dict(COLUMNS), {tower: dict(own) for tower, own in OWN.items()}))
    assert learnt.keys() == trunk.state_dict().keys()
    assert all(torch.equal(value, learnt[name]) for name, value in trunk.state_dict().items())


MOVED = COLUMNS | {"shop:a": (14, 15, 16), "shop:b": (9, 10, 11)}
TURNED = {tower: OWN[tower] for tower in "bac"}  # equal as a dictionary, but the first task is b


@pytest.mark.parametrize("first", [LAYOUT, Layout(COLUMNS)])
@pytest.mark.parametrize(
    "second",
    [Layout(MOVED, OWN), Layout(COLUMNS, TURNED), Layout(COLUMNS), LAYOUT],
    ids=["moved", "turned", "", "same"],
)
def test_stem_refuses_a_second_layout_that_is_another(first, second):
    trunk = stem(first)
    learnt = {name: value.clone() for name, value in trunk.state_dict().items()}
    if first is second or not (first.own or second.own):
        trunk.arrange(second)
    else:
        with pytest.raises(ValueError, match="STEM's layers were made for a vector with other own tables, or in other"):
            trunk.arrange(second)
    assert all(torch.equal(value, learnt[name]) for name, value in trunk.state_dict().items())


def test_layers_for_own_tables_have_the_dtype_device_and_mode_of_those_before():
    trunk = STEM(24, 3, levels=[[5], [4]]).double().eval()
    trunk.arrange(LAYOUT)
    assert {parameter.dtype for parameter in trunk.parameters()} == {torch.float64}
    assert not any(module.training for module in trunk.modules())
    assert trunk(torch.randn(2, 24, dtype=torch.float64)).dtype == torch.float64
    unmade = STEM(24, 3, levels=[[5], [4]]).to("meta")
    unmade.arrange(LAYOUT)
    assert all(parameter.is_meta for parameter in unmade.parameters())
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in unmade.parameters())


def test_the_inside_view_learns_whose_each_expert_is():
    first, last = stem(levels=[[4], [4]], task_experts=2).wirings().values()
    assert list(first.experts) == [0, 0, 1, 1, 2, 2, "shared"] == list(last.experts)
    assert (list(first.readers), list(last.readers)) == ([0, 1, 2, "shared"], [0, 1, 2])
    level = stem(levels=[[4], [4]], task_experts=2).levels[0]
    names = [name for name, _ in level.named_children()]
    assert names.index("own") < names.index("shared"), "they are shown in this order, which is that of the gates"
