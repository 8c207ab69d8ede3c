"""Vectors from files find the rows of their values."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.data.pretrained import read_vectors
from torchrec_mtl.data.table import ManagedCollision, Pretrained
from torchrec_mtl.data.vocabulary import write_vocabulary


def features(path, rows=5, table=None, **feature):
    tables = [Table("shop", rows, 4, pretrained=Pretrained(str(path), "id", "vector"), **(table or {}))]
    return Features(tables=tables, sparse=[SparseFeature("shop", **feature)])


def read(declared):
    parts = list(read_vectors(declared, declared.tables[0]))
    rows = np.concatenate([vectors.rows for vectors, _ in parts])
    return rows, np.concatenate([vectors.values for vectors, _ in parts]), parts[-1][1]


def write(path, ids, vectors, kind=None):
    pq.write_table(pa.table({"id": ids, "vector": pa.array(vectors, kind or pa.list_(pa.float32()))}), path)
    return path


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int32(), 4)])
def test_a_value_is_the_number_of_its_row(tmp_path, kind):
    path = write(tmp_path / "v.parquet", [3, 7, 0], [[1, 2, 3, 4], [9, 9, 9, 9], [5, 6, 7, 8]], kind)
    rows, values, coverage = read(features(path))
    assert rows.tolist() == [3, 0]
    assert values.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert values.dtype == np.float32
    assert (coverage.given, coverage.unknown) == (2, 1), "row 7 of five is none"


def test_a_vocabulary_gives_strings_their_rows(tmp_path):
    counts = pa.table({"value": ["soap", "tea", "rice"], "count": [9, 8, 7]})
    write_vocabulary(tmp_path / "vocab.parquet", counts, ["shop"])
    path = write(tmp_path / "v.parquet", ["rice", "salt", "soap"], [[3] * 4, [9] * 4, [1] * 4])
    rows, values, coverage = read(features(path, vocabulary=str(tmp_path / "vocab.parquet")))
    assert dict(zip(rows.tolist(), values[:, 0].tolist(), strict=True)) == {3: 3, 1: 1}, "rows count from 1"
    assert (coverage.given, coverage.unknown) == (2, 1)


def test_several_files_are_one(tmp_path):
    write(tmp_path / "a.parquet", [1], [[1] * 4])
    write(tmp_path / "b.parquet", [2], [[2] * 4])
    assert read(features(tmp_path))[0].tolist() == [1, 2]
    write(tmp_path / "c.parquet", [1], [[2] * 4])
    with pytest.raises(ValueError, match=r"c.parquet gives 1 more than one vector"):
        read(features(tmp_path))


@pytest.mark.parametrize(
    ("ids", "vectors", "kind", "text"),
    [
        ([1, 2, 1], [[1] * 4] * 3, None, r"Table 'shop': .*v.parquet gives 1 more than one vector. Leave one"),
        ([1, 2], [[1] * 4, [1] * 3], None, r"vectors of the table's dimension 4, but found one of width 3"),
        ([1], [[1] * 5], pa.list_(pa.float32(), 5), r"dimension 4, but found one of width 5"),
        ([1, 2], [[1] * 4, None], None, r"dimension 4, but found 1 nulls"),
        ([1], [[1, 2, None, 4]], None, r"holds a vector with a null, NaN or infinite number"),
        ([1], [[1, 2, float("inf"), 4]], None, r"holds a vector with a null, NaN or infinite number"),
        ([1, None], [[1] * 4] * 2, None, r"holds a null in column 'id': give each vector its value"),
        (["1"], [[1] * 4], None, r"column 'id' must hold integers or lists of integers, but has type string"),
        ([1], ["1 2 3 4"], pa.string(), r"column 'vector' must hold lists of numbers, but has type string"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, ids, vectors, kind, text):
    path = write(tmp_path / "v.parquet", ids, vectors, kind)
    with pytest.raises(ValueError, match=text):
        read(features(path))


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="No Parquet file at"):
        read(features(tmp_path / "none.parquet"))
    pq.write_table(pa.table({"id": [1], "v": [[1.0]]}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=r"has no column 'vector'. Found \['id', 'v'\]; name it in pretrained"):
        read(features(tmp_path / "v.parquet"))


@pytest.mark.parametrize(
    ("feature", "table", "text"),
    [
        ({"out_of_range": "hash"}, {}, "out_of_range: hash"),
        ({"boundaries": [0.5]}, {}, r"boundaries: \[0.5\]"),
        ({}, {"managed_collision": ManagedCollision()}, "managed_collision"),
    ],
)
def test_rows_that_no_value_is_told_of_are_refused(tmp_path, feature, table, text):
    path = write(tmp_path / "v.parquet", [1], [[1] * 4])
    with pytest.raises(ValueError, match=rf"vectors are matched through a vocabulary .* feature 'shop' has {text}"):
        read(features(path, table=table, **feature))
