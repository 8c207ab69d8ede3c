"""Columns of features by name."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchrec_mtl.layout import Layout, runs, take

LAYOUT = Layout({"dense": (0, 1, 2), "price": (0, 2), "age": (1,), "shop": (3, 4, 5, 6), "brand": (7, 8)})


def test_features_have_their_columns_in_ascending_order():
    assert LAYOUT.width == 9
    assert LAYOUT.of(["brand", "price"], "test") == (0, 2, 7, 8)
    assert LAYOUT.of(["dense", "age"], "test") == (0, 1, 2)
    assert LAYOUT.but((0, 2, 7, 8)) == (1, 3, 4, 5, 6)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match=r"PEPNet: domain: 'shpo' is no part of the feature vector.*did you mean 'shop'"
    ):
        LAYOUT.of(["age", "shpo"], "PEPNet: domain")


@given(st.sets(st.integers(0, 11)))
def test_slices_take_exactly_the_columns(columns):
    columns = sorted(columns)
    x = torch.arange(24.0).view(2, 12)
    slices = runs(columns)
    assert torch.equal(take(x, slices), x[:, columns])
    assert all(low.stop < high.start for low, high in pairwise(slices)), "the fewest slices"
