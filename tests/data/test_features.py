"""Feature declarations: what TorchRec is told, widths and errors."""

import re
from pathlib import Path

import pytest
from torchrec.modules.embedding_configs import PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_mtl.data import BehaviourSequence, DenseFeature, Features, SparseFeature, Table


def features():
    return Features(
        tables=[Table("shop", 100, 8), Table("brand", 30, 4, pooling="mean")],
        sparse=[SparseFeature("shop"), SparseFeature("brand"), SparseFeature("recent_shops", table="shop")],
        dense=[DenseFeature("price"), DenseFeature("age", fill=0.0)],
    )


def test_the_width_counts_every_feature_and_not_every_table():
    assert features().width == 2 + 8 + 4 + 8  # two dense; shop twice, from one table


def test_torchrec_gets_one_configuration_a_table():
    shop, brand = features().embedding_bag_configs()
    assert (shop.name, shop.num_embeddings, shop.embedding_dim) == ("shop", 100, 8)
    assert shop.feature_names == ["shop", "recent_shops"]
    assert shop.pooling == PoolingType.SUM
    assert (brand.name, brand.num_embeddings, brand.embedding_dim) == ("brand", 30, 4)
    assert brand.feature_names == ["brand"]
    assert brand.pooling == PoolingType.MEAN


def test_a_feature_finds_its_table():
    declared = features()
    assert [declared.table_of(feature).name for feature in declared.sparse] == ["shop", "brand", "shop"]
    assert SparseFeature("brand").table_name == "brand"
    assert SparseFeature("recent_shops", table="shop").table_name == "shop"


def test_dense_features_are_optional():
    declared = Features([Table("shop", 10)], [SparseFeature("shop")])
    assert declared.width == 16  # the default dimension alone
    assert list(declared.dense) == []


@pytest.mark.parametrize("rows", [0, -5])
def test_a_table_needs_rows(rows):
    with pytest.raises(ValueError, match=f"Table 'shop': rows must be at least 1, but found {rows}"):
        Table("shop", rows)


def test_the_names_of_tables_and_sequences_have_no_dot():
    with pytest.raises(ValueError, match=r"Table 'a.b': a name must not contain '.'.* Call it 'a_b'"):
        Table("a.b", 10)
    with pytest.raises(ValueError, match=r"Sequence 'a.b': a name must not contain '.'.* Call it 'a_b'"):
        BehaviourSequence("a.b", items=[SparseFeature("item")])
    assert SparseFeature("a.b", table="shop").name == "a.b", "a column may be called so"


@pytest.mark.parametrize("dimension", [0, -4, 3, 6, 18])
def test_a_dimension_is_a_positive_multiple_of_four(dimension):
    with pytest.raises(
        ValueError, match=f"Table 'shop': dimension must be a positive multiple of 4.*found {dimension}"
    ):
        Table("shop", 10, dimension)


def test_a_pooling_must_be_known():
    with pytest.raises(ValueError, match="Table 'shop': pooling must be 'sum' or 'mean', but found 'max'"):
        Table("shop", 10, pooling="max")


def test_an_out_of_range_policy_must_be_known():
    text = "Feature 'shop': out_of_range must be 'error', 'hash' or 'oov', but found 'clip'"
    with pytest.raises(ValueError, match=text):
        SparseFeature("shop", out_of_range="clip")


@pytest.mark.parametrize("boundaries", [[], [1, 1], [2, 1], [0, float("inf")], [float("nan")], [0, float("nan"), 1]])
def test_boundaries_must_increase(boundaries):
    text = f"Feature 'price': boundaries must be finite numbers in increasing order, but found {boundaries}."
    with pytest.raises(ValueError, match=re.escape(text)):
        SparseFeature("price", boundaries=boundaries)


@pytest.mark.parametrize(
    ("ways", "text"),
    [
        ({"boundaries": [1.0], "vocabulary": "v.parquet"}, "boundaries and vocabulary"),
        ({"boundaries": [1.0], "out_of_range": "oov"}, "boundaries and out_of_range: oov"),
        ({"vocabulary": "v.parquet", "out_of_range": "hash"}, "vocabulary and out_of_range: hash"),
    ],
)
def test_a_feature_has_one_way_to_its_rows(ways, text):
    with pytest.raises(ValueError, match=f"Feature 'shop': {text} are different ways from values to rows; give one."):
        SparseFeature("shop", **ways)


def test_buckets_need_a_row_more_than_there_are_boundaries():
    feature = SparseFeature("price", boundaries=[0, 10, 100])
    assert Features([Table("price", 4)], [feature]).table_of(feature).rows == 4
    text = "Feature 'price': 3 boundaries make 4 buckets, but table 'price' has 3 rows. Set its rows to 4."
    with pytest.raises(ValueError, match=re.escape(text)):
        Features([Table("price", 3)], [feature])


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"out_of_range": "hash"}, ("ids as they are", "out_of_range: hash")),
        ({"out_of_range": "oov"}, {"vocabulary": "v.parquet"}, ("ids as they are", "vocabulary: v.parquet")),
        ({"vocabulary": "v.parquet"}, {"vocabulary": "w.parquet"}, ("vocabulary: v.parquet", "vocabulary: w.parquet")),
        ({"boundaries": [1]}, {"boundaries": [2]}, ("boundaries: [1.0]", "boundaries: [2.0]")),
    ],
)
def test_features_that_share_a_table_must_mean_the_same_by_a_row(first, second, said):
    text = (
        f"Features 'shop' and 'recent' share table 'shop', but a row stands for different values: 'shop' has "
        f"{said[0]}, 'recent' has {said[1]}. Declare both alike, or give each a table."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        Features([SHOP], [SparseFeature("shop", **first), SparseFeature("recent", table="shop", **second)])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"out_of_range": "oov"}),  # a strict candidate, a lenient history
        ({"vocabulary": "a/v.parquet"}, {"vocabulary": Path("a/v.parquet")}),
        ({"boundaries": (1, 2)}, {"boundaries": [1.0, 2.0]}),
    ],
)
def test_features_that_share_a_table_may_differ_in_form(first, second):
    Features([SHOP], [SparseFeature("shop", **first), SparseFeature("recent", table="shop", **second)])


SHOP = Table("shop", 10)


@pytest.mark.parametrize(
    ("tables", "sparse", "dense", "text"),
    [
        (
            [SHOP, Table("shop", 20)],
            [SparseFeature("shop")],
            [],
            "Tables must have different names, but ['shop'] are declared more than once",
        ),
        (
            [SHOP],
            [SparseFeature("shop"), SparseFeature("shop")],
            [],
            "Features must have different names, but ['shop'] are declared more than once",
        ),
        (
            [SHOP],
            [SparseFeature("shop")],
            [DenseFeature("shop")],
            "Features must have different names, but ['shop'] are declared more than once",
        ),
        ([], [], [DenseFeature("price")], "At least one sparse feature is needed"),
        (
            [SHOP],
            [SparseFeature("shop"), SparseFeature("recent", table="shopp")],
            [],
            "Feature 'recent': table 'shopp' is not declared. Found ['shop']; did you mean 'shop'?",
        ),
        (
            [SHOP],
            [SparseFeature("shop"), SparseFeature("zzz")],
            [],
            "Feature 'zzz': table 'zzz' is not declared. Found ['shop'].",
        ),
        (
            [SHOP, Table("city", 5), Table("brand", 5)],
            [SparseFeature("shop")],
            [],
            "Tables ['brand', 'city'] hold no feature: give each a feature, or remove it.",
        ),
    ],
)
def test_declarations_that_do_not_fit_are_refused(tables, sparse, dense, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        Features(tables, sparse, dense)


@pytest.mark.parametrize(("scale", "bound"), [(0.0, 0.0), (0.3, 0.3), (None, 50**-0.5)])
def test_rows_start_within_the_init_scale(scale, bound):
    features = Features([Table("shop", 50, 8, init_scale=scale)], [SparseFeature("shop")])
    weight = EmbeddingBagCollection(tables=features.embedding_bag_configs()).embedding_bags["shop"].weight
    assert float(weight.detach().abs().max()) <= bound
    assert float(weight.detach().abs().max()) >= 0.9 * bound  # 400 draws: all below 0.9 has probability 5e-19


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_an_init_scale_out_of_range(scale):
    with pytest.raises(ValueError, match="Table 'shop': init_scale must be a finite number of at least 0, but found"):
        Table("shop", 50, 8, init_scale=scale)
