"""Where the time goes: what is counted where."""

import pytest
import torch

from examples.benchmark.profile import GROUPS, OTHER, group_of, products_alone, profile, table_of
from examples.benchmark.workload import Workload


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mm", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("fbgemm::split_embedding_backward_codegen_rowwise_adagrad_cpu", "table update (fused backward)"),
        ("fbgemm::split_embedding_codegen_forward_cpu", "table lookup"),
        ("aten::cat", "copies and concatenation"),
        ("aten::_fused_adam_", "dense optimizer"),
        ("aten::threshold_backward", "activations and elementwise"),
        ("c10d::allreduce_", OTHER),
    ],
)
def test_operators_are_counted_where_they_belong(operator, group):
    assert group_of(operator) == group


class Products:
    """A contender that multiplies matrices."""

    def train(self, batches):
        for _ in range(batches):
            torch.randn(300, 300) @ torch.randn(300, 300)


def test_a_profile_finds_the_products():
    found = profile(Products(), 3)
    assert found["matrix products"] > 0
    assert found["step"] > 0
    assert found["table lookup"] == 0


def test_the_floor_and_the_table():
    workload = Workload(ids=(100,) * 2, bags=(100,), batch_size=8)
    floor = products_alone(workload, 2)
    assert floor > 0
    figures = dict.fromkeys((*GROUPS, OTHER, "step"), 1.0)
    assert "| floor: products alone (5.0) + lookups and updates | 7.0 |" in table_of(figures, figures, 5.0)
