"""What a checkpoint's features must have in common with a job's."""

from pathlib import Path

import pytest

from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.data.meaning import meanings
from torchrec_mtl.training.position import Position, check_meaning

TABLES = [Table("shop", 10, 4), Table("brand", 10, 4)]


def position(tables, sparse=("shop", "brand")):
    return Position(features=meanings(Features(tables, [SparseFeature(name) for name in sparse])))


def test_tables_in_another_order_are_refused():
    check_meaning(Path("old"), position(TABLES), position(TABLES))
    text = r"in the order \['shop', 'brand'\], but this job declares them as \['brand', 'shop'\]"
    with pytest.raises(ValueError, match=text):
        check_meaning(Path("old"), position(TABLES), position(TABLES[::-1]))


def test_a_checkpoint_that_does_not_say_is_not_compared():
    check_meaning(Path("old"), Position(), position(TABLES))
