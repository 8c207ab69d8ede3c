"""Every trunk, present and future, and one from outside, trains on two ranks as in one process."""

from functools import partial

import pytest
import torch

from torchrec_mtl.testing import trunk_ranks
from torchrec_mtl.testing.modules import every_subclass
from torchrec_mtl.testing.trunk_ranks import (
    assert_trains_alike,
    assert_trunk_trains_alike_on_two_ranks,
    train_on_two_ranks,
)
from torchrec_mtl.testing.trunks import assert_trunk_contract
from torchrec_mtl.trunks import Trunk


class FromOutside(Trunk):
    """A layer of each task's own, written as somebody else would."""

    def __init__(self, in_features, num_tasks, *, width=8):
        super().__init__(in_features, num_tasks, width)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(in_features, width) for _ in range(num_tasks))

    def forward(self, features):
        return torch.stack([layer(features).relu() for layer in self.layers], dim=1)


class SeesOthersRows(FromOutside):
    """Breaks the contract: a rank's rows are not all rows."""

    def forward(self, features):
        return super().forward(features - features.mean(0))


MAKES = {each.__name__: each for each in every_subclass(Trunk)} | {
    "outside": partial(FromOutside, width=6),
    "broken": SeesOthersRows,
}


@pytest.fixture(scope="module")
def sharded():
    """All trunks on the same two ranks: starting processes costs more than their steps."""
    return dict(zip(MAKES, train_on_two_ranks(list(MAKES.values())), strict=True))


@pytest.mark.parametrize("name", [name for name in MAKES if name != "broken"])
def test_two_ranks_train_like_one_process(sharded, name):
    assert_trains_alike(MAKES[name], sharded[name])


def test_a_trunk_that_mixes_rows_is_found(sharded):
    with pytest.raises(AssertionError, match="not close"):
        assert_trains_alike(MAKES["broken"], sharded["broken"])


def test_a_trunk_from_outside_is_judged_by_one_call(sharded, monkeypatch):
    asked = []

    def there_already(makes):
        asked.extend(makes)
        return [sharded["outside" if make.keywords else "broken"] for make in makes]

    monkeypatch.setattr(trunk_ranks, "train_on_two_ranks", there_already)
    assert_trunk_trains_alike_on_two_ranks(FromOutside, width=6)
    with pytest.raises(AssertionError, match="not close"):
        assert_trunk_trains_alike_on_two_ranks(SeesOthersRows)
    assert [each.func for each in asked] == [FromOutside, SeesOthersRows]


def test_a_trunk_from_outside_passes_the_contract():
    assert_trunk_contract(FromOutside, width=6)
