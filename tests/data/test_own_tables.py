"""Own tables: a copy of table and features for each tower, which reads the same columns and maps them alike."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from torchrec_mtl.data import BatchConverter, BehaviourSequence, DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.data.meaning import meanings
from torchrec_mtl.data.own_tables import inherited, own_features, with_own_tables
from torchrec_mtl.data.table import ManagedCollision
from torchrec_mtl.data.vocabulary import write_vocabulary
from torchrec_mtl.managed import embedding_bags

TOWERS = ["ctr", "cvr"]


def declared(**brand):
    return Features(
        tables=[Table("shop", 20, 8), Table("brand", 30, 4, pooling="mean", init_scale=0.0), Table("user", 9)],
        sparse=[
            SparseFeature("brand", out_of_range="hash", **brand),
            SparseFeature("shop"),
            SparseFeature("user"),
            SparseFeature("brands_seen", table="brand", out_of_range="hash"),
        ],
        dense=[DenseFeature("price")],
        own_tables=["shop", "brand"],
    )


def test_each_tower_has_a_copy_of_each_table_and_of_its_features():
    made = with_own_tables(declared(), TOWERS)
    assert [table.name for table in made.tables] == [
        "shop", "brand", "user", "shop:ctr", "brand:ctr", "shop:cvr", "brand:cvr",
    ]  # fmt: skip
    copy = made.tables[4]
    assert (copy.rows, copy.dimension, copy.pooling, copy.init_scale) == (30, 4, "mean", 0.0)
    copies = {feature.name: feature for feature in made.sparse[4:]}
    assert set(copies) == {f"{name}:{tower}" for name in ("shop", "brand", "brands_seen") for tower in TOWERS}
    seen = copies["brands_seen:cvr"]
    assert (seen.column_name, seen.table_name, seen.out_of_range) == ("brands_seen", "brand:cvr", "hash")
    assert own_features(made, TOWERS) == {
        tower: {name: f"{name}:{tower}" for name in ("shop", "brand", "brands_seen")} for tower in TOWERS
    }


def test_copies_are_made_once():
    made = with_own_tables(declared(), TOWERS)
    assert with_own_tables(made, TOWERS) == made
    assert own_features(made, TOWERS) == own_features(declared(), TOWERS)
    plain = Features([Table("shop", 20)], [SparseFeature("shop")])
    assert with_own_tables(plain, TOWERS) is plain
    assert own_features(plain, TOWERS) == {}


def test_sharding_of_a_table_holds_for_its_copies_unless_they_have_their_own():
    found = inherited({"shop": 1, "brand": 2, "brand:cvr": 3, "user": 4}, declared(), TOWERS)
    assert found == {
        "shop": 1, "shop:ctr": 1, "shop:cvr": 1, "brand": 2, "brand:ctr": 2, "brand:cvr": 3, "user": 4,
    }  # fmt: skip


def rows(count=6):
    brands = [[f"b{i}", "b0"] if i % 2 else [] for i in range(count)]
    return pa.record_batch(
        {
            "shop": pa.array(np.arange(count) % 20),
            "brand": pa.array([f"b{i}" for i in range(count)]),
            "user": pa.array(np.arange(count)),
            "brands_seen": pa.array(brands, pa.list_(pa.string())),
            "price": pa.array(np.ones(count)),
        }
    )


def test_copies_read_the_ids_of_what_they_copy():
    converter = BatchConverter(with_own_tables(declared(), TOWERS), [], labelled=False)
    assert converter.sparse_columns == ["brand", "shop", "user", "brands_seen"]
    batch = converter(rows(), 8).sparse
    assert len(batch.keys()) == 10
    for name in ("shop", "brand", "brands_seen"):
        for tower in TOWERS:
            assert torch.equal(batch[f"{name}:{tower}"].values(), batch[name].values())
            assert torch.equal(batch[f"{name}:{tower}"].lengths(), batch[name].lengths())
    alone = BatchConverter(declared(), [], labelled=False)(rows(), 8).sparse
    assert all(torch.equal(alone[name].values(), batch[name].values()) for name in alone.keys())  # noqa: SIM118


def test_a_value_is_mapped_once_for_all_copies(tmp_path):
    values = pa.table({"value": pa.array(["b1", "b2"]), "count": pa.array([2, 1])})
    write_vocabulary(tmp_path / "brand.parquet", values, ["brand"], 1, None)
    features = Features(
        [Table("brand", 3, 4)], [SparseFeature("brand", vocabulary=tmp_path / "brand.parquet")], own_tables=["brand"]
    )
    converter = BatchConverter(with_own_tables(features, TOWERS), [], labelled=False)
    assert len({id(mapping) for mapping in converter.mappings.values()}) == 1
    batch = converter(rows(), 6).sparse
    assert batch["brand:cvr"].values().tolist() == [0, 1, 2, 0, 0, 0]  # the unknown have row 0


def test_columns_of_several_features_are_checked_for_each():
    features = Features(
        [Table("a", 10, 4), Table("b", 100, 4)],
        [SparseFeature("b"), SparseFeature("a", column="b", out_of_range="error")],
    )
    converter = BatchConverter(features, [], labelled=False)
    assert converter.check_bound("b", 9, "file") is None
    assert "Feature 'a': id 50 lies outside table 'a'" in converter.check_bound("b", 50, "file")
    text = converter.check_type("b", pa.string())
    assert text.startswith("must hold integers or lists of integers, but has type string")


def test_the_checkpoint_knows_the_copies():
    before, after = meanings(declared()), meanings(with_own_tables(declared(), TOWERS))
    assert before.items() - after.items() == {("order of sparse", before["order of sparse"])}
    assert after["sparse feature 'brand:ctr'"] == "out_of_range: hash, table 'brand:ctr', column 'brand'"
    assert after["table 'shop:cvr'"] == after["table 'shop'"]


def test_a_table_that_a_sequence_reads_has_pooled_copies():
    item = SparseFeature("past_shops", table="shop")
    features = Features(
        [Table("shop", 20, 8)],
        [SparseFeature("shop")],
        sequences=[BehaviourSequence("past", [item], query=["shop"])],
        own_tables=["shop"],
    )
    made = with_own_tables(features, TOWERS)
    assert [config.name for config in made.embedding_configs()] == ["shop"]
    assert [config.name for config in made.embedding_bag_configs()] == ["shop:ctr", "shop:cvr"]
    lists = pa.array([[1, 2]] * 6)
    batch = BatchConverter(made, [], labelled=False)(rows().append_column("past_shops", lists), 6)
    assert batch.sparse["shop:ctr"].values().tolist() == list(range(6))


def test_copies_of_a_managed_table_have_maps_of_their_own():
    features = Features(
        [Table("shop", 16, 4, managed_collision=ManagedCollision(2))], [SparseFeature("shop")], own_tables=["shop"]
    )
    made = with_own_tables(features, TOWERS)
    batch = BatchConverter(made, [], labelled=False)(rows(), 6).sparse
    assert torch.equal(batch["shop:ctr"].values(), batch["shop"].values())
    pooled = embedding_bags(made, torch.device("cpu"))(batch)
    assert pooled.keys() == ["shop", "shop:ctr", "shop:cvr"]
    assert pooled.values().shape == (6, 12)


@pytest.mark.parametrize(
    ("features", "towers", "text"),
    [
        (
            lambda: Features([Table("shop", 9)], [SparseFeature("shop")], own_tables=["shpo"]),
            TOWERS,
            r"own_tables: no feature of the impression has a table 'shpo'. Found \['shop'\]; did you mean 'shop'\?",
        ),
        (declared, ["c.t.r"], "'c.t.r' names a table of its own, and TorchRec takes no '.' and '@' there. Rename it"),
        (
            lambda: Features(
                [Table("shop", 9), Table("shop:cvr", 9)],
                [SparseFeature("shop"), SparseFeature("x", table="shop:cvr")],
                own_tables=["shop"],
            ),
            TOWERS,
            r"Tables must have different names, but \['shop:cvr'\] are declared more than once",
        ),
    ],
)
def test_what_cannot_be_copied_is_refused(features, towers, text):
    with pytest.raises(ValueError, match=text):
        with_own_tables(features(), towers)
