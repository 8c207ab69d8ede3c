"""Cross-stitch against a slow float64 reference, and at the identity."""

import pytest
import torch

from tests.trunks.banks import assert_equals_written_out, expert, mix, moves, network
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import CrossStitch


def reference(trunk, row):
    """h_t = sum_u alpha_tu relu(W_u h_u + b_u), layer by layer."""
    tasks = [row] * trunk.num_tasks
    for layer, stitch in zip(trunk.networks, trunk.stitches, strict=True):
        made = [expert(layer, t, x) for t, x in enumerate(tasks)]
        tasks = [mix(alpha, made) for alpha in stitch.tolist()]
    return tasks


@pytest.mark.parametrize(("num_tasks", "layers"), [(1, [3]), (2, [5, 3]), (3, [4, 4, 2])])
def test_cross_stitch_equals_the_sums_written_out(num_tasks, layers):
    torch.manual_seed(0)
    trunk = CrossStitch(6, num_tasks, layers=layers)
    for stitch in trunk.stitches:
        torch.nn.init.normal_(stitch)  # not symmetric: rows and columns must not be confused
    assert_equals_written_out(trunk, reference)


def test_at_the_identity_networks_are_separate():
    torch.manual_seed(0)
    trunk, features = CrossStitch(6, 3, layers=[8, 4], own=1.0), torch.randn(40, 6)
    found = trunk(features)
    for task in range(3):
        first, second = (network(layer, task) for layer in trunk.networks)
        torch.testing.assert_close(found[:, task], second(first(features)))
    moved = moves(found[:, 1], [layer.layers[0] for layer in trunk.networks])
    assert moved == [[False, True, False]] * 2


def test_from_the_identity_a_task_still_learns_what_to_take_of_others():
    torch.manual_seed(0)
    trunk = CrossStitch(6, 3, layers=[8, 4], own=1.0)
    trunk(torch.randn(40, 6)).sum().backward()
    assert all(stitch.grad.count_nonzero() == 9 for stitch in trunk.stitches)


def test_even_stitches_give_every_task_the_mean():
    trunk, features = CrossStitch(6, 4, layers=[5], own=0.25), torch.randn(10, 6)
    mean = torch.stack([network(trunk.networks[0], task)(features) for task in range(4)]).mean(0)
    torch.testing.assert_close(trunk(features), mean[:, None].expand(-1, 4, -1))


@pytest.mark.parametrize(
    ("num_tasks", "own", "row"),
    [(1, 0.9, [1.0]), (2, 0.9, [0.9, 0.1]), (3, 0.9, [0.9, 0.05, 0.05]), (3, 0.0, [0.0, 0.5, 0.5])],
)
def test_stitches_start_as_convex_combinations(num_tasks, own, row):
    trunk = CrossStitch(6, num_tasks, layers=[4, 4], own=own)
    assert len(trunk.stitches) == 2
    for stitch in trunk.stitches:
        torch.testing.assert_close(stitch[0].detach(), torch.tensor(row))
        torch.testing.assert_close(stitch.sum(1).detach(), torch.ones(num_tasks))


def test_layers_have_stitches_of_their_own():
    trunk = CrossStitch(6, 2, layers=[4, 4])
    torch.nn.init.zeros_(trunk.stitches[0])
    assert trunk.stitches[1].count_nonzero() == 4


def test_the_contract_from_the_identity():
    assert_trunk_contract(CrossStitch, layers=[8, 4], own=1.0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": []}, "CrossStitch: layers must name at least one width, but found none"),
        ({"layers": [0, 8]}, r"Layer widths must be at least 1, but found \[0, 8\]"),
        ({"layers": [8, 0]}, r"CrossStitch, layers: Layer widths must be at least 1, but found \[8, 0\]"),
        ({"own": 1.1}, r"CrossStitch: own must lie in \[0, 1\], but found 1.1"),
        ({"own": -0.1}, r"CrossStitch: own must lie in \[0, 1\], but found -0.1"),
    ],
)
def test_cross_stitch_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        CrossStitch(6, 2, **arguments)
