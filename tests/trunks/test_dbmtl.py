"""DBMTL against a slow float64 reference, and who reaches whom."""

import pytest
import torch

from tests.trunks.by_hand import expert, floats, sequential
from torchrec_mtl.trunks import DBMTL


def reference(trunk, row, bottom, task, relation):
    """One row: each task's relation layers over its own output and those of all tasks before it."""
    state, found = floats(trunk), []
    shared = sequential(state, "bottom", row, bottom)
    for t in range(trunk.num_tasks):
        read = expert(state, "own", shared, task, t)
        for earlier in found:
            read = read + earlier
        found.append(sequential(state, f"relations.{t}", read, relation))
    return found


@pytest.mark.parametrize(
    ("num_tasks", "bottom", "task", "relation"), [(1, [5], [4], [3]), (2, [], [4], [3]), (3, [5, 6], [4, 4], [6, 3])]
)
def test_dbmtl_equals_the_equations_written_out(num_tasks, bottom, task, relation):
    torch.manual_seed(1)
    trunk = DBMTL(6, num_tasks, bottom_layers=bottom, task_layers=task, relation_layers=relation)
    features = torch.randn(4, 6) * 6
    depths = len(bottom), len(task), len(relation)
    expected = torch.tensor([reference(trunk, row, *depths) for row in features.double().tolist()])
    assert (expected.abs().amax((0, 2)) > 0.05).all()
    torch.testing.assert_close(trunk(features), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("task", [0, 1, 2])
def test_a_gradient_flows_to_earlier_tasks_and_no_later_one(task):
    torch.manual_seed(0)
    trunk = DBMTL(6, 3, bottom_layers=[16], task_layers=[16], relation_layers=[16])
    trunk(torch.randn(20, 6))[:, task].sum().backward()
    own = [bool(trunk.own.layers[0].weight.grad[t].any()) for t in range(3)]
    relations = [bool(relation[0].weight.grad.any()) for relation in trunk.relations]
    assert own == relations == [t <= task for t in range(3)]
    assert trunk.bottom[0].weight.grad.any()


def test_the_last_task_reads_the_first_directly():
    """Not only through the second: with its relation layers silent, a change of the first is still seen."""
    torch.manual_seed(0)
    trunk = DBMTL(6, 3, bottom_layers=[], task_layers=[8], relation_layers=[8])
    features = torch.randn(5, 6)
    with torch.no_grad():
        for parameter in trunk.relations[1].parameters():
            parameter.zero_()
        before = trunk(features)
        trunk.own.layers[0].bias[0] += 1
    after = trunk(features)
    assert torch.equal(after[:, 1], before[:, 1])
    assert not torch.equal(after[:, 2], before[:, 2])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"task_layers": []}, r"task_layers and relation_layers must each name at least one width, but found \[\] and"),
        ({"relation_layers": []}, r"must each name at least one width, but found \[64\] and \[\]"),
        ({"relation_layers": [0]}, r"DBMTL, relation_layers: Layer widths must be at least 1, but found \[0\]"),
        ({"bottom_layers": [0]}, r"DBMTL, bottom_layers: Layer widths must be at least 1, but found \[0\]"),
        ({"task_layers": [-1]}, r"DBMTL, task_layers: Layer widths must be at least 1, but found \[-1\]"),
    ],
)
def test_dbmtl_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        DBMTL(6, 2, **arguments)
