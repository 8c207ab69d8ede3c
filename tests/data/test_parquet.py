"""Files to batches: what is refused, and that every row comes exactly once."""

import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.numbered import CONVERTER, numbered, numbers_of, source_of, write_files
from torchrec_mtl.data import BatchConverter, ParquetReader, ParquetSource, Rank
from torchrec_mtl.tasks import BinaryTask


def read_all(reader, epoch=0, skip=0):
    return list(reader.batches(epoch, skip))


def order_of(reader, epoch=0, skip=0):
    return [numbers_of(batch) for batch, _ in read_all(reader, epoch, skip)]


def assert_batch_is_whole(batch, keys, batch_size):
    """Padded to its size; keys, bags and labels belong to the row's number."""
    numbers = numbers_of(batch)
    assert batch.num_rows == batch.sparse.stride() == batch_size
    assert keys.column("key").to_pylist() == [f"row {number}" for number in numbers]
    bags = [bag.tolist() for bag in batch.sparse["shop"].to_dense()]
    assert bags == [[number] * (number % 3) for number in numbers] + [[]] * (batch_size - len(numbers))
    labels = batch.labels["click"].tolist()
    assert labels[: len(numbers)] == [number % 2 for number in numbers], "padding stands at the end"


@settings(deadline=None, max_examples=40)
@given(
    files=st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=3).filter(lambda f: sum(map(sum, f))),
    world_size=st.integers(1, 3),
    batch_size=st.integers(1, 9),
    seed=st.none() | st.integers(0, 3),
    shuffle_rows=st.sampled_from([1, 5, 1000]),
    epoch=st.integers(0, 2),
)
@example(files=[[1], [], [0]], world_size=3, batch_size=4, seed=0, shuffle_rows=1, epoch=0)  # ranks without a row
def test_every_row_comes_exactly_once(files, world_size, batch_size, seed, shuffle_rows, epoch):
    with tempfile.TemporaryDirectory() as folder:
        rows = write_files(Path(folder), files)
        source = source_of(folder)
        assert source.rows == rows
        seen = []
        for index in range(world_size):
            arguments = batch_size, Rank(index, world_size), seed, shuffle_rows
            reader = ParquetReader(source, *arguments)
            batches = read_all(reader, epoch)
            assert len(batches) == reader.num_batches(epoch)
            for batch, keys in batches:
                assert_batch_is_whole(batch, keys, batch_size)
            order = order_of(ParquetReader(source, *arguments), epoch)
            assert all(len(numbers) == batch_size for numbers in order[:-1]), "only the last batch is padded"
            assert order == [numbers_of(batch) for batch, _ in batches], "the same seed gives the same order"
            for skip in range(len(batches) + 2):
                assert order_of(reader, epoch, skip) == order[skip:]
            seen += [number for numbers in order for number in numbers]
        assert sorted(seen) == list(range(rows))


def test_without_a_seed_rows_keep_their_order(tmp_path):
    write_files(tmp_path, [[4, 3], [5]])
    assert order_of(ParquetReader(source_of(tmp_path), 5)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_without_a_seed_row_groups_are_dealt_in_turn(tmp_path):
    write_files(tmp_path, [[2, 2], [2, 2]])
    source = source_of(tmp_path)
    assert order_of(ParquetReader(source, 4, Rank(0, 2))) == [[0, 1, 4, 5]]
    assert order_of(ParquetReader(source, 4, Rank(1, 2))) == [[2, 3, 6, 7]]


def test_epochs_seeds_and_file_order_differ(tmp_path):
    write_files(tmp_path, [[20, 20], [20]])
    source = source_of(tmp_path)
    orders = [
        order_of(ParquetReader(source, 60, seed=None)),
        order_of(ParquetReader(source, 60, seed=0), epoch=0),
        order_of(ParquetReader(source, 60, seed=0), epoch=1),
        order_of(ParquetReader(source, 60, seed=1), epoch=0),
    ]
    assert len({tuple(order[0]) for order in orders}) == 4


def test_an_epoch_deals_row_groups_to_other_ranks(tmp_path):
    """Else a rank would see the same rows for ever."""
    write_files(tmp_path, [[1] * 20])
    reader = ParquetReader(source_of(tmp_path), 10, Rank(0, 2), seed=0)
    first, second = ({number for part in order_of(reader, epoch) for number in part} for epoch in (0, 1))
    assert len(first) == len(second) == 10
    assert first != second


def test_rows_are_shuffled_within_blocks_alone(tmp_path):
    """Blocks of one row group each: the group's rows stay together, in another order."""
    write_files(tmp_path, [[30, 30, 30]])
    order = order_of(ParquetReader(source_of(tmp_path), 30, seed=0, shuffle_rows=1))
    assert sorted(map(sorted, order)) == [list(range(start, start + 30)) for start in (0, 30, 60)]
    assert all(part != sorted(part) for part in order)


def test_a_larger_block_mixes_row_groups(tmp_path):
    write_files(tmp_path, [[30, 30, 30]])
    order = order_of(ParquetReader(source_of(tmp_path), 30, seed=0, shuffle_rows=90))
    assert all(len({number // 30 for number in part}) == 3 for part in order)


def test_ranks_shuffle_differently(tmp_path):
    write_files(tmp_path, [[30, 30]])
    places = []
    for index in range(2):
        (order,) = order_of(ParquetReader(source_of(tmp_path), 30, Rank(index, 2), seed=0))
        places.append([number % 30 for number in order])
    assert places[0] != places[1]


def test_what_is_skipped_is_not_read(tmp_path, monkeypatch):
    write_files(tmp_path, [[10, 10, 10]])
    source, read = source_of(tmp_path), []
    whole = source.read
    monkeypatch.setattr(source, "read", lambda groups, *a: read.extend(groups) or whole(groups, *a))
    assert order_of(ParquetReader(source, 5), skip=4) == [[20, 21, 22, 23, 24], [25, 26, 27, 28, 29]]
    assert [group.index for group in read] == [2]


def test_a_row_group_is_read_when_it_is_needed(tmp_path, monkeypatch):
    """Memory is bounded by a block, not by the file."""
    write_files(tmp_path, [[10, 10, 10]])
    source, read = source_of(tmp_path), []
    whole = source.read
    monkeypatch.setattr(source, "read", lambda groups, *a: read.extend(groups) or whole(groups, *a))
    batches = ParquetReader(source, 10).batches()
    next(batches)
    assert [group.index for group in read] == [0]


def test_keys_may_be_left_out_and_still_count_rows(tmp_path):
    write_files(tmp_path, [[5]])
    (full, keys), (padded, rest) = read_all(ParquetReader(source_of(tmp_path, keys=()), 4))
    assert (keys.num_rows, keys.num_columns) == (4, 0)
    assert (rest.num_rows, padded.num_rows, full.num_rows) == (1, 4, 4)


def test_a_key_may_be_a_feature_and_a_label_too(tmp_path):
    write_files(tmp_path, [[3]])
    ((batch, keys),) = read_all(ParquetReader(source_of(tmp_path, keys=("shop", "click", "key")), 3))
    assert keys.schema.names == ["shop", "click", "key"]
    assert keys.column("click").to_pylist() == [0, 1, 0]
    assert numbers_of(batch) == [0, 1, 2]


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [
        ("click", pa.int8(), pa.int64()),
        ("click", pa.float32(), pa.float64()),
        ("number", pa.float64(), pa.float32()),
        ("number", pa.float64(), pa.int32()),
        ("shop", pa.list_(pa.int64()), pa.list_(pa.int32())),
        ("shop", pa.list_(pa.int64()), pa.large_list(pa.int64())),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [None, 0])
def test_files_may_differ_in_width(tmp_path, column, first, second, seed):
    """Each passes the schema check, so a batch that begins in one file and ends in the other must work."""
    for i, kind in enumerate((first, second)):
        table = numbered(3 * i, 3 * i + 3)
        place = table.schema.get_field_index(column)
        pq.write_table(table.set_column(place, column, table[column].cast(kind)), tmp_path / f"{i}.parquet")
    order = order_of(ParquetReader(source_of(tmp_path), 4, seed=seed))
    assert [len(part) for part in order] == [4, 2]
    assert sorted(order[0] + order[1]) == list(range(6))


def test_files_may_differ_in_nullability(tmp_path):
    required = pa.schema([field.with_nullable(field.name != "number") for field in numbered(0, 0).schema])
    pq.write_table(numbered(0, 3).cast(required), tmp_path / "0.parquet")
    pq.write_table(numbered(3, 6), tmp_path / "1.parquet")
    assert order_of(ParquetReader(source_of(tmp_path), 4)) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize(("batch_size", "shuffle_rows"), [(0, 1), (1, 0), (-3, 5)])
def test_sizes_must_be_positive(tmp_path, batch_size, shuffle_rows):
    write_files(tmp_path, [[1]])
    text = f"batch_size and shuffle_rows must be at least 1, but found {batch_size} and {shuffle_rows}"
    with pytest.raises(ValueError, match=text):
        ParquetReader(source_of(tmp_path), batch_size, shuffle_rows=shuffle_rows)


# --- finding files


def test_a_file_a_directory_and_a_glob_find_the_same(tmp_path):
    write_files(tmp_path, [[2], [3]])
    nested = tmp_path / "day=1" / "hour=2"
    nested.mkdir(parents=True)
    pq.write_table(numbered(5, 9), nested / "part-9.parquet")
    (tmp_path / "notes.txt").write_text("no data")
    assert ParquetSource(str(tmp_path), CONVERTER).rows == 9
    assert ParquetSource(f"{tmp_path}/*.parquet", CONVERTER).rows == 5
    assert ParquetSource(f"{tmp_path}/part-1.parquet", CONVERTER).rows == 3
    assert ParquetSource([f"{tmp_path}/part-1.parquet", str(nested)], CONVERTER).rows == 7


def test_files_stand_in_the_order_of_their_names(tmp_path):
    """Every rank must deal the same row groups: a directory's own order may differ between machines."""
    for name in ("c", "a", "b"):
        pq.write_table(numbered(0, 1), tmp_path / f"{name}.parquet")
    for paths in (str(tmp_path), f"{tmp_path}/*"):
        assert [Path(each).name for each in ParquetSource(paths, CONVERTER).files] == [
            "a.parquet",
            "b.parquet",
            "c.parquet",
        ]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path):
    pq.write_table(numbered(0, 3), tmp_path / "day[1].parquet")
    assert ParquetSource(str(tmp_path / "day[1].parquet"), CONVERTER).rows == 3


@pytest.mark.parametrize("path", ["nowhere", "*.parquet", "missing.parquet"])
def test_nothing_found_is_an_error(tmp_path, path):
    with pytest.raises(ValueError, match=re.escape(f"No Parquet file at '{tmp_path}/{path}'") + ".*directory.*glob"):
        ParquetSource(f"{tmp_path}/{path}", CONVERTER)


def test_one_path_of_two_that_finds_nothing_is_an_error(tmp_path):
    write_files(tmp_path, [[2]])
    with pytest.raises(ValueError, match=re.escape(f"No Parquet file at '{tmp_path}/b*'")):
        ParquetSource([str(tmp_path), f"{tmp_path}/b*"], CONVERTER)


# --- files that cannot be read


def test_a_file_of_zero_bytes_is_named(tmp_path):
    write_files(tmp_path, [[2]])
    (tmp_path / "zero.parquet").touch()
    with pytest.raises(
        ValueError, match=re.escape(f"Cannot read {tmp_path}/zero.parquet as Parquet: the file is empty")
    ):
        source_of(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    write_files(tmp_path, [[200]])
    file = tmp_path / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {file} as Parquet: ") + "(?!the file is empty).+"):
        source_of(tmp_path)


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "text.parquet").write_text("click,purchase\n1,0\n")
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {tmp_path}/text.parquet as Parquet: ")):
        source_of(tmp_path)


def test_a_corrupt_row_group_is_named_when_it_is_read(tmp_path):
    write_files(tmp_path, [[200, 200]])
    file = tmp_path / "part-0.parquet"
    content = bytearray(file.read_bytes())
    group = pq.read_metadata(file).row_group(1)
    start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    content[start : start + 40] = b"\xff" * 40  # the footer stays whole
    file.write_bytes(content)
    source = source_of(tmp_path)
    assert order_of(ParquetReader(source, 200, Rank(0, 2))) == [list(range(200))]
    with pytest.raises(ValueError, match=re.escape(f"Cannot read row group 1 of {file}: ")):
        read_all(ParquetReader(source, 200, Rank(1, 2)))


def test_a_file_without_rows_is_passed_over(tmp_path):
    write_files(tmp_path, [[], [2], [0]])
    source = source_of(tmp_path)
    assert len(source.files) == 3
    assert order_of(ParquetReader(source, 2)) == [[0, 1]]


@pytest.mark.parametrize("files", [[[]], [[0]], [[], [0, 0]]])
def test_no_row_at_all_is_an_error(tmp_path, files):
    write_files(tmp_path, files)
    with pytest.raises(ValueError, match=r"No rows in \[.*part-0\.parquet.*\]: every file is empty"):
        source_of(tmp_path)


# --- schema


def write_with(folder, **columns):
    table = numbered(0, 2)
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.remove_column(place) if column is None else table.set_column(place, name, column)
    pq.write_table(table, folder / "a.parquet")


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"click": None}, "column 'click' is missing. Found ['shop', 'number', 'key']."),
        ({"key": None}, "column 'key' is missing. Found ['shop', 'number', 'click']."),
        ({"shop": pa.array(["a", "b"])}, "column 'shop' must hold integers or lists of integers, but has type string."),
        ({"shop": pa.array([[0.5], []])}, "column 'shop' must hold integers or lists of integers, but has type list<"),
        ({"number": pa.array(["1", "2"])}, "column 'number' must hold numbers, but has type string."),
        ({"click": pa.array([[1], [0]])}, "column 'click' must hold numbers, but has type list<"),
    ],
)
def test_a_column_that_does_not_fit_is_named(tmp_path, columns, text):
    write_with(tmp_path, **columns)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/a.parquet: {text}")):
        source_of(tmp_path)


def test_a_misspelt_column_gets_a_hint(tmp_path):
    write_files(tmp_path, [[2]])
    made = BatchConverter(CONVERTER.features, [BinaryTask("ctr", "clicks")])
    text = "column 'clicks' is missing. Found ['shop', 'number', 'click', 'key']; did you mean 'click'?"
    with pytest.raises(ValueError, match=re.escape(text)):
        ParquetSource(str(tmp_path), made)


def test_every_file_is_checked(tmp_path):
    write_files(tmp_path, [[2]])
    pq.write_table(numbered(2, 4).drop_columns(["number"]), tmp_path / "z.parquet")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/z.parquet: column 'number' is missing")):
        source_of(tmp_path)


def test_an_unlabelled_split_needs_no_labels(tmp_path):
    pq.write_table(numbered(0, 3).drop_columns(["click"]), tmp_path / "a.parquet")
    made = BatchConverter(CONVERTER.features, CONVERTER.tasks, labelled=False)
    ((batch, keys),) = read_all(ParquetReader(ParquetSource(str(tmp_path), made, keys=["key"]), 4))
    assert batch.dense[:, 0].tolist() == [0, 1, 2, 0]
    assert batch.labels["click"].isnan().all()
    assert keys.num_rows == 3


def test_columns_that_nothing_declares_are_not_read(tmp_path):
    table = numbered(0, 2).append_column("huge", pa.array(["x", "y"]))
    pq.write_table(table, tmp_path / "a.parquet")
    source = source_of(tmp_path)
    assert source.read(source.row_groups).schema.names == ["shop", "number", "click", "key"]
    assert torch.equal(read_all(ParquetReader(source, 2))[0][0].dense, torch.tensor([[0.0], [1.0]]))
