"""Declared sequences: which tables they take along, and what is refused."""

import pyarrow as pa
import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from torchrec_mtl.data import BatchConverter, BehaviourSequence, Features, SparseFeature, Table
from torchrec_mtl.tasks import BinaryTask


def declare(**changes):
    arguments = {
        "tables": [Table("item", 10, 8), Table("shop", 5, 4, pooling="mean"), Table("gap", 3, 8)],
        "sparse": [SparseFeature("item"), SparseFeature("shop")],
        "sequences": [
            BehaviourSequence(
                "bought",
                items=[SparseFeature("past_item", table="item")],
                properties=[SparseFeature("past_gap", table="gap", boundaries=[1.0, 7.0])],
                query=["item"],
                user=["shop"],
                max_length=3,
            )
        ],
    }
    return Features(**(arguments | changes))


def test_a_table_that_a_sequence_reads_lies_in_the_collection_with_all_its_features():
    features = declare()
    (bags,) = features.embedding_bag_configs()
    assert (bags.name, bags.feature_names, bags.pooling) == ("shop", ["shop"], PoolingType.MEAN)
    names = {config.name: config.feature_names for config in features.embedding_configs()}
    assert names == {"item": ["item", "past_item"], "gap": ["past_gap"]}
    assert features.width == features.embedding_width == 4, "what the encoder makes is not counted here"


def test_rows_become_steps_places_and_bags():
    converter = BatchConverter(declare(), [BinaryTask("ctr", "click")])
    rows = pa.table(
        {
            "item": [4, None],
            "shop": [2, 3],
            "past_item": [[9, 4, 9, 9], None],
            "past_gap": [[30.0, 0.5, 1.0, 8.0], []],
            "click": [1, 0],
        }
    ).to_batches()[0]
    batch = converter(rows, 3)
    assert batch.sparse.keys() == ["shop"]
    assert batch.sequences.keys() == batch.places.keys() == ["past_item", "past_gap", "item"]
    ids, places = batch.sequences.to_dict(), batch.places.to_dict()
    assert {key: each.values().tolist() for key, each in ids.items()} == {
        "past_item": [4, 9],
        "past_gap": [0, 1, 2],
        "item": [4],
    }
    steps = {key: ids[key].values()[places[key].values()].tolist() for key in ids}
    assert steps == {"past_item": [4, 9, 9], "past_gap": [0, 1, 2], "item": [4]}
    assert places["past_item"].lengths().tolist() == places["past_gap"].lengths().tolist() == [3, 0, 0]
    assert places["item"].lengths().tolist() == [1, 0, 0]
    padding = converter.padding(3)
    assert padding.sequences.keys() == batch.sequences.keys()
    assert padding.places.lengths().sum() == padding.sequences.lengths().sum() == 0
    assert torch.equal(padding.places.lengths(), torch.zeros(9, dtype=torch.int32))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"query": ["itm"]}, r"Sequence 'bought' reads 'itm' of the impression.*; did you mean 'item'\?"),
        ({"user": ["gap"]}, r"reads 'gap' of the impression, which is no sparse feature. Found \['item', 'shop'\]"),
        ({"items": [SparseFeature("past_item", table="itm")]}, "Feature 'past_item': table 'itm' is not declared"),
        ({"items": [SparseFeature("shop", table="item")]}, r"Features must have different names, but \['shop'\]"),
        (
            {"items": [SparseFeature("past_item", table="item", out_of_range="hash")]},
            "Features 'item' and 'past_item' share table 'item', but a row stands for different values",
        ),
        (
            {"properties": [SparseFeature("past_gap", table="gap", boundaries=[1.0, 2.0, 3.0])]},
            "3 boundaries make 4 buckets, but table 'gap' has 3 rows. Set its rows to 4",
        ),
        (
            {
                "items": [SparseFeature("past_item", table="item"), SparseFeature("past_shop", table="shop")],
                "query": [],
            },
            r"must have one dimension .* but found \{'item': 8, 'shop': 4, 'gap': 8\}",
        ),
    ],
)
def test_a_sequence_that_does_not_fit_is_refused(changes, text):
    base = {
        "items": [SparseFeature("past_item", table="item")],
        "properties": [SparseFeature("past_gap", table="gap", boundaries=[1.0, 7.0])],
        "query": ["item"],
    }
    with pytest.raises(ValueError, match=text):
        declare(sequences=[BehaviourSequence("bought", **(base | changes))])


def test_tables_of_sequences_pool_by_sum():
    tables = [Table("item", 10, 8, pooling="mean"), Table("shop", 5, 4), Table("gap", 3, 8)]
    with pytest.raises(
        ValueError, match=r"Tables \['item'\] are read by behaviour sequences.*Set their pooling to sum"
    ):
        declare(tables=tables)


def test_two_sequences_need_two_names():
    again = BehaviourSequence("bought", items=[SparseFeature("sold", table="item")])
    with pytest.raises(ValueError, match=r"Sequences must have different names, but \['bought'\]"):
        declare(sequences=[*declare().sequences, again])
