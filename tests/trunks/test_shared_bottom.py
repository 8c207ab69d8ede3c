"""Shared-Bottom against a slow float64 reference."""

import pytest
import torch

from tests.trunks.test_mmoe import affine, doubled, relu
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.trunks import SharedBottom


@pytest.mark.parametrize("layers", [[3], [5, 3]])
def test_all_tasks_read_the_vector_of_one_network(layers):
    torch.manual_seed(0)
    trunk = SharedBottom(6, 2, layers=layers)
    state, features = doubled(trunk), torch.randn(4, 6) * 2
    expected = []
    for x in features.double().tolist():
        for layer in range(len(layers)):
            x = relu(affine(state[f"bottom.{2 * layer}.weight"], state[f"bottom.{2 * layer}.bias"], x))  # noqa: PLW2901
        expected.append([x])  # one vector, which both tasks read
    torch.testing.assert_close(trunk(features), torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_gradients_of_all_tasks_add_up():
    trunk, heads = SharedBottom(6, 3, layers=[4]), TaskHeads({name: Tower(4) for name in ("a", "b", "c")})
    features, weight = torch.randn(5, 6), trunk.bottom[0].weight

    def gradient(*names):
        outputs = heads(trunk(features))
        return torch.autograd.grad(sum(outputs[name].sum() for name in names), weight)[0]

    torch.testing.assert_close(gradient("a", "b", "c"), gradient("a") + gradient("b") + gradient("c"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": ()}, "SharedBottom: layers must name at least one width, but found none"),
        ({"layers": [-2]}, r"SharedBottom, layers: Layer widths must be at least 1, but found \[-2\]"),
        ({"layers": [-2, 3]}, r"Layer widths must be at least 1, but found \[-2, 3\]"),
    ],
)
def test_shared_bottom_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        SharedBottom(6, 2, **arguments)
