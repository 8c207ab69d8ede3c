"""Rows to batches, against obvious Python."""

import math
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.data.test_hashed import finalised
from torchrec_mtl.data import BatchConverter, DenseFeature, Features, Funnel, SparseFeature, Table
from torchrec_mtl.tasks import BinaryTask, RegressionTask

NAN = float("nan")
FEATURES = Features(
    tables=[Table("shop", 10, 4), Table("brand", 5, 4)],
    sparse=[SparseFeature("shop"), SparseFeature("brand"), SparseFeature("recent_shops", table="shop")],
    dense=[DenseFeature("price"), DenseFeature("age", fill=-1.0)],
)
TASKS = [
    BinaryTask("ctr", "click", sample_weight="inverse_rate"),
    BinaryTask("cvr", "purchase", label_space="click", sample_weight="inverse_rate"),
    RegressionTask("value", "value", label_space="purchase"),
]
ROWS = {
    "shop": [3, None, 9],
    "brand": [0, 4, 1],
    "recent_shops": [[1, 2], None, [0, None, 5]],
    "price": [0.5, 1.5, -2.5],
    "age": [30, None, 50],
    "click": [1, 0, None],
    "purchase": [True, False, None],
    "value": [12.5, None, None],
    "inverse_rate": [1.0, 6.0, 0.0],
    "user": ["a", "b", "c"],  # a column that nothing declares
}


def record_batch(**changes):
    return pa.record_batch(ROWS | changes)


def converter(**arguments):
    return BatchConverter(FEATURES, TASKS, **arguments)


def bags_of(batch):
    """``{feature: one list of ids a row}``, from TorchRec's own reading of the jagged tensor."""
    return {key: [bag.tolist() for bag in jagged.to_dense()] for key, jagged in batch.sparse.to_dict().items()}


def same(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), equal_nan=True, atol=0, rtol=0)


def test_a_batch_holds_what_the_rows_say():
    batch = converter()(record_batch(), 3)
    assert batch.num_rows == 3
    assert batch.sparse.keys() == ["shop", "brand", "recent_shops"]
    assert bags_of(batch) == {"shop": [[3], [], [9]], "brand": [[0], [4], [1]], "recent_shops": [[1, 2], [], [0, 5]]}
    same(batch.dense, [[0.5, 30], [1.5, -1], [-2.5, 50]])
    assert set(batch.labels) == {"click", "purchase", "value"}
    same(batch.labels["click"], [1, 0, NAN])
    same(batch.labels["purchase"], [1, 0, NAN])
    same(batch.labels["value"], [12.5, NAN, NAN])
    assert set(batch.weights) == {"inverse_rate"}
    same(batch.weights["inverse_rate"], [1, 6, 0])
    assert batch.sequences is None


def test_padding_rows_are_outside_everything():
    batch = converter()(record_batch(), 5)
    assert batch.num_rows == batch.sparse.stride() == 5
    assert bags_of(batch)["recent_shops"] == [[1, 2], [], [0, 5], [], []]
    assert bags_of(batch)["shop"] == [[3], [], [9], [], []]
    same(batch.dense[3:], [[0, 0], [0, 0]])
    same(batch.dense[:3], [[0.5, 30], [1.5, -1], [-2.5, 50]])
    for label in batch.labels.values():
        same(label[3:], [NAN, NAN])
    same(batch.weights["inverse_rate"], [1, 6, 0, 0, 0])
    for task in TASKS:
        assert not task.space(batch.labels)[3:].any()


@pytest.mark.parametrize("labelled", [True, False])
def test_a_batch_of_padding_has_the_form_of_any_other(labelled):
    """A rank that has run out of rows goes through the same kernels."""
    other, padding = converter(labelled=labelled)(record_batch(), 4), converter(labelled=labelled).padding(4)
    assert padding.sparse.keys() == other.sparse.keys()
    assert padding.sparse.stride() == other.sparse.stride() == 4
    assert padding.sparse.values().dtype == other.sparse.values().dtype
    assert padding.sparse.lengths().dtype == other.sparse.lengths().dtype
    assert padding.sparse.values().numel() == 0
    assert (padding.dense.shape, padding.dense.dtype) == (other.dense.shape, other.dense.dtype)
    assert not padding.dense.any()
    assert padding.labels.keys() == other.labels.keys()
    assert all(label.shape == (4,) and label.isnan().all() for label in padding.labels.values())
    assert padding.weights.keys() == other.weights.keys()
    assert all(weight.shape == (4,) and not weight.any() for weight in padding.weights.values())


def test_no_row_at_all_is_a_batch_of_padding():
    found = converter()(record_batch().slice(0, 0), 2)
    assert bags_of(found) == {"shop": [[], []], "brand": [[], []], "recent_shops": [[], []]}
    assert found.labels["click"].isnan().all()


def test_a_slice_converts_its_own_rows():
    batch = converter()(record_batch().slice(2, 1), 1)
    assert bags_of(batch) == {"shop": [[9]], "brand": [[1]], "recent_shops": [[0, 5]]}
    same(batch.dense, [[-2.5, 50]])


def test_a_batch_owns_its_memory():
    """Writing into a batch must not write into Arrow's buffers, from which the next epoch may read."""
    rows = pa.record_batch(
        ROWS | {name: np.array([1, 1, 1], np.float32) for name in ("price", "click", "inverse_rate")}
    )
    batch = converter()(rows, 3)
    for tensor in (batch.dense, batch.labels["click"], batch.weights["inverse_rate"]):
        tensor.fill_(7)
    for name in ("price", "click", "inverse_rate"):
        assert rows.column(name).to_pylist() == [1, 1, 1], name


def test_a_conversion_warns_of_nothing():
    """Arrow's arrays are read-only, of which PyTorch warns the user once a process."""
    rows = record_batch(click=np.ones(3, np.float32), inverse_rate=np.ones(3, np.float32))
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            converter()(rows, 3)
    finally:
        torch.set_warn_always(False)


def test_no_dense_feature_is_a_width_of_zero():
    features = Features(FEATURES.tables, FEATURES.sparse)
    made = BatchConverter(features, TASKS)
    assert made(record_batch(), 4).dense.shape == (4, 0)
    assert made.padding(4).dense.shape == (4, 0)


def test_each_column_is_read_once():
    made = converter()
    assert made.sparse_columns == ["shop", "brand", "recent_shops"]
    assert made.numeric_columns == ["price", "age", "click", "purchase", "value", "inverse_rate"]


@pytest.mark.parametrize("missing", [None, NAN])
def test_a_dense_null_without_fill_is_an_error(missing):
    text = r"Dense feature 'price': 2 null or NaN values in one batch.*fill: 0.0"
    with pytest.raises(ValueError, match=text):
        converter()(record_batch(price=[1.0, missing, missing]), 3)


def test_a_dense_nan_is_filled_like_a_null():
    same(converter()(record_batch(age=[NAN, None, 2.0]), 3).dense[:, 1], [-1, -1, 2])


def test_a_large_integer_is_a_dense_value():
    """Amounts in cents or time stamps go beyond 2²⁴; the batch holds the nearest float32."""
    same(converter()(record_batch(price=[20_000_001, 1, 2]), 3).dense[:, 0], [np.float32(20_000_001), 1, 2])


@pytest.mark.parametrize(
    ("changes", "feature", "table", "rows", "found", "count"),
    [
        ({"shop": [3, 10, 1]}, "shop", "shop", 10, 10, 1),
        ({"shop": [-1, 3, 12]}, "shop", "shop", 10, -1, 2),
        ({"brand": [5, 5, 5]}, "brand", "brand", 5, 5, 3),
        ({"recent_shops": [[1], [2, 11], None]}, "recent_shops", "shop", 10, 11, 1),
        ({"recent_shops": [[1], [-7, 2], None]}, "recent_shops", "shop", 10, -7, 1),
    ],
)
def test_an_id_outside_its_table_is_an_error(changes, feature, table, rows, found, count):
    text = (
        rf"Feature '{feature}': id {found} lies outside table '{table}' with rows \[0, {rows}\) "
        rf"\({count} such ids in one batch\).*out_of_range: hash"
    )
    with pytest.raises(ValueError, match=text):
        converter()(record_batch(**changes), 3)


def test_an_unsigned_id_beyond_63_bits_is_named_as_it_stands():
    shops = pa.array([1, 2, 2**64 - 1], pa.uint64())
    with pytest.raises(ValueError, match=rf"Feature 'shop': id {2**64 - 1} lies outside"):
        converter()(record_batch(shop=shops), 3)


def test_the_last_row_of_a_table_is_inside():
    assert bags_of(converter()(record_batch(shop=[0, 9, 9]), 3))["shop"] == [[0], [9], [9]]


def test_every_id_of_a_hashed_feature_is_hashed():
    """Also those inside the table: else small ids would share the rows of large ones unevenly."""
    features = Features([Table("shop", 10, 4)], [SparseFeature("shop", out_of_range="hash")])
    ids = [3, -5, 2**40]
    made = BatchConverter(features, [])(pa.record_batch({"shop": ids}), 3)
    assert bags_of(made)["shop"] == [[finalised(each) % 10] for each in ids]


def test_a_hashed_feature_takes_unsigned_ids():
    features = Features([Table("shop", 1000, 4)], [SparseFeature("shop", out_of_range="hash")])
    rows = pa.record_batch({"shop": pa.array([2**64 - 1, 5], pa.uint64())})
    assert bags_of(BatchConverter(features, [])(rows, 2))["shop"] == [
        [finalised(2**64 - 1) % 1000],
        [finalised(5) % 1000],
    ]


@pytest.mark.parametrize(
    ("weights", "found", "count"),
    [
        ([1.0, -2.0, -3.0], "-2.0", 2),
        ([1.0, None, 1.0], "a null or NaN", 1),
        ([NAN, None, 1.0], "a null or NaN", 2),
        ([1.0, 1.0, math.inf], "inf", 1),
    ],
)
def test_a_bad_weight_is_an_error(weights, found, count):
    text = rf"Weight column 'inverse_rate': weights must be finite.*found {found} \({count} such rows in one batch\)"
    with pytest.raises(ValueError, match=text):
        converter()(record_batch(inverse_rate=weights), 3)


def test_unlabelled_rows_need_no_label_and_no_weight():
    made = converter(labelled=False)
    rows = record_batch().select(["shop", "brand", "recent_shops", "price", "age"])
    batch = made(rows, 4)
    assert made.numeric_columns == ["price", "age"]
    assert bags_of(batch)["shop"] == [[3], [], [9], []]
    assert set(batch.labels) == {"click", "purchase", "value"}
    assert all(label.shape == (4,) and label.isnan().all() for label in batch.labels.values())
    same(batch.weights["inverse_rate"], [0, 0, 0, 0])


def test_unlabelled_columns_share_no_memory():
    batch = converter(labelled=False)(record_batch(), 3)
    batch.labels["click"].fill_(1)
    assert batch.labels["purchase"].isnan().all()


@pytest.mark.parametrize(
    ("policy", "click", "purchase"), [("drop", [1, NAN, 1], [1, NAN, 0]), ("keep", [1, 0, 1], [1, 1, 0])]
)
def test_the_funnels_policy_is_applied(policy, click, purchase):
    made = converter(funnel=Funnel(["click", "purchase"], policy=policy))
    batch = made(record_batch(click=[1, 0, 1], purchase=[1, 1, 0]), 3)
    same(batch.labels["click"], click)
    same(batch.labels["purchase"], purchase)


def test_a_broken_funnel_stops_the_conversion():
    with pytest.raises(ValueError, match="1 of 3 rows break the funnel click -> purchase"):
        converter(funnel=Funnel(["click", "purchase"]))(record_batch(click=[1, 0, 1], purchase=[1, 1, 0]), 3)


def test_the_funnel_is_no_matter_without_labels():
    made = converter(funnel=Funnel(["click", "purchase"]), labelled=False)
    assert made(record_batch(click=[1, 0, 1], purchase=[1, 1, 0]), 3).num_rows == 3


@pytest.mark.parametrize("labelled", [True, False])
def test_a_funnel_over_unread_columns_is_refused(labelled):
    text = r"Funnel labels \['cart'\] are read by no task. Label columns: \['click', 'purchase', 'value'\]"
    with pytest.raises(ValueError, match=text):
        converter(funnel=Funnel(["click", "cart"]), labelled=labelled)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300])
def test_an_infinite_dense_value_is_an_error_even_with_a_fill(value):
    with pytest.raises(ValueError, match="Dense feature 'age': 1 values in one batch are infinite or too large"):
        converter()(record_batch(age=[30.0, value, 50.0]), 3)


@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_a_fill_must_be_finite(fill):
    with pytest.raises(ValueError, match=f"Dense feature 'age': fill must be a finite number, but found {fill}"):
        DenseFeature("age", fill=fill)
