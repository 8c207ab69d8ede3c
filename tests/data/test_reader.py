"""Rows to batches: every row once, in an order that the seed alone decides, from any batch on."""

import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.numbered import numbered, numbers_of, source_of, write_files
from torchrec_mtl.data import BatchReader, Rank, ReadAhead


def order_of(reader, epoch=0, skip=0):
    return [numbers_of(batch) for batch, _ in reader.batches(epoch, skip)]


def slow_order(files, batch_size, rank, seed, shuffle_rows, epoch):
    """The obvious reader: all rows in a list, the rank's share cut out, cut into blocks, each shuffled, cut again."""
    sizes = [size for sizes in files for size in sizes if size]
    starts = np.cumsum([0, *sizes])
    groups = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=False)]
    if seed is not None:
        groups = [groups[i] for i in np.random.default_rng([seed, epoch]).permutation(len(groups))]
    rows = [row for group in groups for row in group]
    mine = rows[rank.index * len(rows) // rank.world_size : (rank.index + 1) * len(rows) // rank.world_size]
    block = max(1, shuffle_rows // batch_size) * batch_size
    batches = []
    for number, start in enumerate(range(0, len(mine), block)):
        part = mine[start : start + block]
        order = list(range(len(part)))
        if seed is not None:
            order = np.random.default_rng([seed, epoch, rank.index, number]).permutation(len(part)).tolist()
        for first in range(0, len(part), batch_size):  # within a batch rows keep their places
            batches.append([part[i] for i in sorted(order[first : first + batch_size])])
    return batches


def assert_batch_is_whole(batch, keys, batch_size):
    """Padded to its size; keys, bags and labels belong to the row's number."""
    numbers = numbers_of(batch)
    assert batch.num_rows == batch.sparse.stride() == batch_size
    assert keys.column("key").to_pylist() == [f"row {number}" for number in numbers]
    bags = [bag.tolist() for bag in batch.sparse["shop"].to_dense()]
    assert bags == [[number] * (number % 3) for number in numbers] + [[]] * (batch_size - len(numbers))
    labels = batch.labels["click"].tolist()
    assert labels[: len(numbers)] == [number % 2 for number in numbers], "padding stands at the end"


@settings(deadline=None, max_examples=60)
@given(
    files=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=3).filter(lambda f: sum(map(sum, f))),
    world_size=st.integers(1, 4),
    batch_size=st.integers(1, 9),
    seed=st.none() | st.integers(0, 3),
    shuffle_rows=st.sampled_from([1, 5, 12, 1000]),
    epoch=st.integers(0, 2),
    read_ahead=st.builds(ReadAhead, st.integers(0, 3), st.integers(0, 2)),
)
@example(files=[[1], [], [0]], world_size=3, batch_size=4, seed=0, shuffle_rows=1, epoch=0, read_ahead=ReadAhead())
def test_batches_are_those_of_the_obvious_reader(files, world_size, batch_size, seed, shuffle_rows, epoch, read_ahead):
    with tempfile.TemporaryDirectory() as folder:
        rows = write_files(Path(folder), files)
        source = source_of(folder)
        assert source.rows == rows
        seen = []
        for index in range(world_size):
            rank = Rank(index, world_size)
            reader = BatchReader(source, batch_size, rank, seed, shuffle_rows, read_ahead)
            expected = slow_order(files, batch_size, rank, seed, shuffle_rows, epoch)
            batches = list(reader.batches(epoch))
            assert [numbers_of(batch) for batch, _ in batches] == expected
            assert len(batches) == reader.num_batches
            for batch, keys in batches:
                assert_batch_is_whole(batch, keys, batch_size)
            for skip in range(len(batches) + 2):
                assert order_of(reader, epoch, skip) == expected[skip:], "position restored at any batch"
            seen += [number for numbers in expected for number in numbers]
        assert sorted(seen) == list(range(rows)), "each row exactly once"
        assert threading.active_count() < 40, "threads end with their epoch"


@pytest.mark.parametrize("rows_at_once", [1, 3, 7])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_row_group_is_read_in_parts(tmp_path, monkeypatch, rows_at_once, workers):
    """Blocks and ranks begin and end inside parts of a row group."""
    monkeypatch.setattr("torchrec_mtl.data.parquet.ROWS_AT_ONCE", rows_at_once)
    files = [[50, 3], [20]]
    write_files(tmp_path, files)
    for index in range(3):
        reader = BatchReader(source_of(tmp_path), 4, Rank(index, 3), 5, 8, ReadAhead(workers))
        assert order_of(reader, 1) == slow_order(files, 4, Rank(index, 3), 5, 8, 1)
        assert order_of(reader, 1, skip=3) == slow_order(files, 4, Rank(index, 3), 5, 8, 1)[3:]


def test_without_a_seed_rows_keep_their_order(tmp_path):
    write_files(tmp_path, [[4, 3], [5]])
    assert order_of(BatchReader(source_of(tmp_path), 5)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_ranks_share_even_one_row_group(tmp_path):
    """Files written by pandas or pyarrow hold a million rows in one group."""
    write_files(tmp_path, [[9]])
    source = source_of(tmp_path)
    assert [order_of(BatchReader(source, 4, Rank(index, 2))) for index in range(2)] == [
        [[0, 1, 2, 3]],
        [[4, 5, 6, 7], [8]],
    ]


def test_epochs_seeds_and_file_order_differ(tmp_path):
    write_files(tmp_path, [[20, 20], [20]])
    source = source_of(tmp_path)
    orders = [
        order_of(BatchReader(source, 20, seed=None)),
        order_of(BatchReader(source, 20, seed=0), epoch=0),
        order_of(BatchReader(source, 20, seed=0), epoch=1),
        order_of(BatchReader(source, 20, seed=1), epoch=0),
    ]
    assert len({tuple(order[0]) for order in orders}) == 4


def test_an_epoch_deals_rows_to_other_ranks(tmp_path):
    """Else a rank would see the same rows for ever."""
    write_files(tmp_path, [[1] * 20])
    reader = BatchReader(source_of(tmp_path), 10, Rank(0, 2), seed=0)
    first, second = ({number for part in order_of(reader, epoch) for number in part} for epoch in (0, 1))
    assert len(first) == len(second) == 10
    assert first != second


def test_a_larger_block_mixes_row_groups(tmp_path):
    write_files(tmp_path, [[30, 30, 30]])
    order = order_of(BatchReader(source_of(tmp_path), 30, seed=0, shuffle_rows=90))
    assert all(len({number // 30 for number in part}) == 3 for part in order)
    small = order_of(BatchReader(source_of(tmp_path), 30, seed=0, shuffle_rows=1))
    assert all(len({number // 30 for number in part}) == 1 for part in small)
    assert sorted(small) != small


def test_ranks_shuffle_differently(tmp_path):
    write_files(tmp_path, [[30, 30]])
    places = []
    for index in range(2):
        order = order_of(BatchReader(source_of(tmp_path), 10, Rank(index, 2), seed=0))
        places.append([number % 30 for numbers in order for number in numbers])
    assert places[0] != places[1]


def watched(source, monkeypatch):
    """Row groups in the order in which they are begun."""
    begun, stream = [], source.stream
    monkeypatch.setattr(source, "stream", lambda group, *a: begun.append(group.index) or stream(group, *a))
    return begun


def test_what_is_skipped_is_not_read(tmp_path, monkeypatch):
    write_files(tmp_path, [[10, 10, 10]])
    source = source_of(tmp_path)
    begun = watched(source, monkeypatch)
    reader = BatchReader(source, 5, shuffle_rows=5)
    assert order_of(reader, skip=4) == [[20, 21, 22, 23, 24], [25, 26, 27, 28, 29]]
    assert begun == [2]


def test_no_more_is_read_than_may_wait(tmp_path, monkeypatch):
    """Memory is bounded by the blocks ahead, not by the file."""
    write_files(tmp_path, [[10] * 50])
    source = source_of(tmp_path)
    begun = watched(source, monkeypatch)
    batches = BatchReader(source, 10, shuffle_rows=10, read_ahead=ReadAhead(workers=2, batches=3)).batches()
    next(batches)
    for _ in range(50):
        threading.Event().wait(0.01)
    # one used, three waiting, one held by the thread that found no place, one converted from, two ahead
    assert 2 <= len(begun) <= 1 + 3 + 1 + 1 + 2
    batches.close()


def test_nothing_is_read_before_it_is_needed_without_read_ahead(tmp_path, monkeypatch):
    write_files(tmp_path, [[10, 10, 10]])
    source = source_of(tmp_path)
    begun = watched(source, monkeypatch)
    batches = BatchReader(source, 10, shuffle_rows=10, read_ahead=ReadAhead(0, 0)).batches()
    next(batches)
    assert begun == [0]


def test_an_abandoned_epoch_leaves_no_thread(tmp_path):
    write_files(tmp_path, [[10] * 20])
    before = threading.active_count()
    batches = BatchReader(source_of(tmp_path), 2, seed=0, shuffle_rows=4, read_ahead=ReadAhead(3, 2)).batches()
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_read_ahead_must_not_be_negative():
    with pytest.raises(ValueError, match="workers and batches must be at least 0, but found -1 and 4"):
        ReadAhead(workers=-1)


def test_the_order_is_told_by_a_fingerprint(tmp_path):
    write_files(tmp_path, [[10, 10]])
    source = source_of(tmp_path)
    prints = [
        BatchReader(source, 5, seed=0).order,
        BatchReader(source, 5, seed=1).order,
        BatchReader(source, 5, seed=0, shuffle_rows=5).order,
    ]
    assert len(set(prints)) == 3
    assert BatchReader(source, 5, Rank(1, 2), seed=0, read_ahead=ReadAhead(3, 0)).order == prints[0]


def test_keys_may_be_left_out_and_still_count_rows(tmp_path):
    write_files(tmp_path, [[5]])
    (full, keys), (padded, rest) = BatchReader(source_of(tmp_path, keys=()), 4).batches()
    assert (keys.num_rows, keys.num_columns) == (4, 0)
    assert (rest.num_rows, padded.num_rows, full.num_rows) == (1, 4, 4)


def test_a_key_may_be_a_feature_and_a_label_too(tmp_path):
    write_files(tmp_path, [[3]])
    ((batch, keys),) = BatchReader(source_of(tmp_path, keys=("shop", "click", "key")), 3).batches()
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
    order = order_of(BatchReader(source_of(tmp_path), 4, seed=seed))
    assert [len(part) for part in order] == [4, 2]
    assert sorted(order[0] + order[1]) == list(range(6))


def test_files_may_differ_in_nullability(tmp_path):
    required = pa.schema([field.with_nullable(field.name != "number") for field in numbered(0, 0).schema])
    pq.write_table(numbered(0, 3).cast(required), tmp_path / "0.parquet")
    pq.write_table(numbered(3, 6), tmp_path / "1.parquet")
    assert order_of(BatchReader(source_of(tmp_path), 4)) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize(("batch_size", "shuffle_rows"), [(0, 1), (1, 0), (-3, 5)])
def test_sizes_must_be_positive(tmp_path, batch_size, shuffle_rows):
    write_files(tmp_path, [[1]])
    text = f"batch_size and shuffle_rows must be at least 1, but found {batch_size} and {shuffle_rows}"
    with pytest.raises(ValueError, match=text):
        BatchReader(source_of(tmp_path), batch_size, shuffle_rows=shuffle_rows)
