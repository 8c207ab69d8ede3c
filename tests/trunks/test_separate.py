"""Separate networks against a slow float64 reference, and what a task may not see."""

import pytest
import torch

from tests.trunks.test_mmoe import affine, doubled, relu
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import Separate


@pytest.mark.parametrize(("common", "read"), [(None, ["012345", "012345"]), (2, ["0123", "0145"]), (0, ["012", "345"])])
def test_each_task_has_its_own_network_on_its_own_features(common, read):
    torch.manual_seed(0)
    trunk = Separate(6, 2, layers=[5, 3], common=common)
    state, features = doubled(trunk), torch.randn(4, 6) * 2
    expected = []
    for row in features.double().tolist():
        vectors = []
        for task, columns in enumerate(read):
            x = [row[int(i)] for i in columns]
            for layer in (0, 1):
                key = f"networks.layers.{layer}"
                x = relu(affine(state[f"{key}.weight"][task], state[f"{key}.bias"][task], x))
            vectors.append(x)
        expected.append(vectors)
    torch.testing.assert_close(trunk(features), torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("common", [None, 2, 5])
def test_a_task_moves_no_other_tasks_network(common):
    trunk = Separate(8, 3, layers=[4], common=common)
    features = torch.randn(5, 8, requires_grad=True)
    trunk(features)[:, 1].sum().backward()
    moved = trunk.networks.layers[0].weight.grad.flatten(1).any(1).tolist()
    assert moved == [False, True, False]
    if common is not None:  # nor the others' slices
        own = (8 - common) // 3
        seen = features.grad.abs().sum(0) > 0
        assert seen[common:].reshape(3, own).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("common", [2, 5, 8])
def test_the_contract_with_slices(common):
    assert_trunk_contract(Separate, layers=[16, 8], common=common)  # of 8 features, 3 tasks


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": []}, "Separate: layers must name at least one width, but found none"),
        ({"layers": [0, 8]}, r"Layer widths must be at least 1, but found \[0, 8\]"),
        ({"common": 3}, "common must leave 2 slices of equal width of the 6 features, but found common=3"),
        ({"common": 8}, "common must leave 2 slices of equal width of the 6 features, but found common=8"),
        ({"common": -2}, "common must leave 2 slices of equal width of the 6 features, but found common=-2"),
    ],
)
def test_separate_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        Separate(6, 2, **arguments)
