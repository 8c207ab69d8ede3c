"""Frames and CSV files give the same batches as Parquet."""

import re

import pandas as pd
import pyarrow as pa
import pytest
import torch

from tests.data.numbered import CONVERTER, numbered, numbers_of, source_of, write_files
from torchrec_mtl.data import BatchReader, Rank, TableSource, read_csv
from torchrec_mtl.data.open import open_source


def assert_same_rows(source, other):
    for index in range(2):
        mine = list(BatchReader(source, 7, Rank(index, 2)).batches())
        theirs = list(BatchReader(other, 7, Rank(index, 2)).batches())
        assert [numbers_of(batch) for batch, _ in mine] == [numbers_of(batch) for batch, _ in theirs]
        for (batch, keys), (expected, expected_keys) in zip(mine, theirs, strict=True):
            assert torch.equal(batch.sparse.values(), expected.sparse.values())
            assert torch.equal(batch.sparse.lengths(), expected.sparse.lengths())
            assert torch.equal(batch.dense, expected.dense)
            assert keys.to_pydict() == expected_keys.to_pydict()


@pytest.fixture
def parquet(tmp_path):
    write_files(tmp_path, [[30]])
    return source_of(tmp_path)


@pytest.mark.parametrize("frame", [numbered(0, 30), numbered(0, 30).to_pandas()], ids=["arrow", "pandas"])
def test_a_frame_gives_the_same_batches(parquet, frame):
    assert_same_rows(TableSource(frame, CONVERTER, ["key"]), parquet)


def test_a_large_frame_has_several_row_groups(monkeypatch):
    monkeypatch.setattr("torchrec_mtl.data.in_memory.ROWS_AT_ONCE", 8)
    source = TableSource(numbered(0, 30), CONVERTER)
    assert [group.rows for group in source.row_groups] == [8, 8, 8, 6]
    order = [number for batch, _ in BatchReader(source, 5, seed=0).batches() for number in numbers_of(batch)]
    assert sorted(order) == list(range(30))
    assert order != list(range(30))


def test_what_is_no_frame_is_refused():
    with pytest.raises(TypeError, match="Rows must be a pandas, Polars or Arrow frame, but found list"):
        TableSource([{"shop": 1}], CONVERTER)


def test_a_frame_without_a_column_or_rows_is_refused():
    with pytest.raises(ValueError, match="the data frame: column 'number' is missing"):
        TableSource(numbered(0, 3).drop_columns(["number"]), CONVERTER)
    with pytest.raises(ValueError, match="No rows in the data frame"):
        TableSource(numbered(0, 0), CONVERTER)


def write_csv(path, start, stop):
    frame = numbered(start, stop).to_pandas()
    frame["shop"] = ["|".join(map(str, bag)) for bag in frame["shop"]]
    frame.to_csv(path, index=False)


def test_csv_files_give_the_same_batches(tmp_path, parquet):
    folder = tmp_path / "csv"
    folder.mkdir()
    write_csv(folder / "a.csv", 0, 11)
    write_csv(folder / "b.csv", 11, 30)
    for paths in (str(folder / "*.csv"), [str(folder / "a.csv"), str(folder / "b.csv")]):
        source = open_source(paths, CONVERTER, ["key"])
        assert isinstance(source, TableSource)
        assert_same_rows(source, parquet)
    assert_same_rows(read_csv(str(folder), CONVERTER, ["key"]), parquet)


def test_a_broken_csv_file_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("shop,number,click\n1,2\n")
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {tmp_path}/a.csv as CSV: ") + ".*columns"):
        read_csv(str(tmp_path / "a.csv"), CONVERTER)


def test_csv_text_where_numbers_are_needed_is_refused(tmp_path):
    pd.DataFrame({"shop": [1], "number": ["x"], "click": [0]}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="column 'number' must hold numbers, but has type string"):
        read_csv(str(tmp_path / "a.csv"), CONVERTER)


def test_an_empty_csv_field_is_null(tmp_path):
    (tmp_path / "a.csv").write_text("shop,number,click\n,1,0\n4,2,\n7|8,3,1\n")
    ((batch, _),) = BatchReader(read_csv(str(tmp_path / "a.csv"), CONVERTER), 3).batches()
    assert [bag.tolist() for bag in batch.sparse["shop"].to_dense()] == [[], [4], [7, 8]]
    assert batch.labels["click"].isnan().tolist() == [False, True, False]
    assert pa.types.is_integer(numbered(0, 1)["click"].type)


def test_csv_files_agree_on_the_type_of_their_ids(tmp_path):
    """Single ids in one file and bags in the other; numbers in one and text in the other."""
    (tmp_path / "a.csv").write_text("shop,number,click\n4,2,0\n")
    (tmp_path / "b.csv").write_text("shop,number,click\n7|8,3,1\n")
    ((batch, _),) = BatchReader(read_csv(str(tmp_path), CONVERTER), 2).batches()
    assert [bag.tolist() for bag in batch.sparse["shop"].to_dense()] == [[4], [7, 8]]
    (tmp_path / "b.csv").write_text("shop,number,click\nseven,3,1\n")
    text = "column 'shop' must hold integers or lists of integers, but has type string"
    with pytest.raises(ValueError, match=text):
        read_csv(str(tmp_path), CONVERTER)
