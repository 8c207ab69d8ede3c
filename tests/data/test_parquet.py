"""Parquet files as a split: what is found, what is refused, and what is read."""

import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.data.numbered import CONVERTER, numbered, numbers_of, source_of, write_files
from torchrec_mtl.data import BatchConverter, BatchReader, Features, ParquetSource, Rank, SparseFeature, Table
from torchrec_mtl.data.check import scan_labels
from torchrec_mtl.data.source import joined
from torchrec_mtl.tasks import BinaryTask


def order_of(reader, epoch=0, skip=0):
    return [numbers_of(batch) for batch, _ in reader.batches(epoch, skip)]


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
    assert order_of(BatchReader(source, 200, Rank(0, 2))) == [list(range(200))]
    with pytest.raises(ValueError, match=re.escape(f"Cannot read row group 1 of {file}: ")):
        list(BatchReader(source, 200, Rank(1, 2)).batches())


def test_a_file_without_rows_is_passed_over(tmp_path):
    write_files(tmp_path, [[], [2], [0]])
    source = source_of(tmp_path)
    assert len(source.files) == 3
    assert order_of(BatchReader(source, 2)) == [[0, 1]]


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
    ((batch, keys),) = BatchReader(ParquetSource(str(tmp_path), made, keys=["key"]), 4).batches()
    assert batch.dense[:, 0].tolist() == [0, 1, 2, 0]
    assert batch.labels["click"].isnan().all()
    assert keys.num_rows == 3


def test_columns_that_nothing_declares_are_not_read(tmp_path):
    table = numbered(0, 2).append_column("huge", pa.array(["x", "y"]))
    pq.write_table(table, tmp_path / "a.parquet")
    source = source_of(tmp_path)
    assert next(source.stream(source.row_groups[0])).schema.names == ["shop", "number", "click", "key"]
    assert torch.equal(next(BatchReader(source, 2).batches())[0].dense, torch.tensor([[0.0], [1.0]]))


# --- nothing is trained on garbage


def test_a_damaged_page_that_still_decodes_is_refused(tmp_path):
    """Uncompressed numbers decode to other numbers: only the page's checksum tells."""
    file = tmp_path / "a.parquet"
    pq.write_table(numbered(0, 500), file, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(file.read_bytes())
    chunk = pq.read_metadata(file).row_group(0).column(1)
    assert chunk.path_in_schema == "number"
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0x55
    file.write_bytes(content)
    assert len(pq.read_table(file)["number"].unique()) in (499, 500), "without the checksum it passes for whole"
    with pytest.raises(ValueError, match=re.escape(f"Cannot read row group 0 of {file}: ") + ".*CRC"):
        list(BatchReader(source_of(tmp_path), 100).batches())


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    write_files(tmp_path, [[200, 200]])
    source = source_of(tmp_path)
    file = tmp_path / "part-0.parquet"
    for table, size in ((numbered(0, 150), 150), (numbered(0, 300), 150)):
        pq.write_table(table, file, row_group_size=size)
        with pytest.raises(ValueError, match=re.escape(f"{file} has changed since it was checked. Start again")):
            list(BatchReader(source, 100).batches())


def test_a_file_truncated_after_the_check_is_named(tmp_path):
    write_files(tmp_path, [[200, 200]])
    source = source_of(tmp_path)
    file = tmp_path / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=re.escape(f"{file} has changed since it was checked.")):
        list(BatchReader(source, 100).batches())


def test_a_schema_that_drifts_between_files_is_named(tmp_path):
    write_files(tmp_path, [[3]])
    table = numbered(3, 6)
    place = table.schema.get_field_index("number")
    pq.write_table(table.set_column(place, "number", pa.array(["3", "4", "5"])), tmp_path / "z.parquet")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/z.parquet: column 'number' must hold numbers")):
        source_of(tmp_path)


def test_an_error_in_the_thread_is_raised_at_its_batch(tmp_path):
    """Batches before the damage are given; then the file is named, and no thread is left."""
    write_files(tmp_path, [[100], [100]])
    source = source_of(tmp_path)
    (tmp_path / "part-1.parquet").unlink()
    before = threading.active_count()
    batches = BatchReader(source, 50, shuffle_rows=50).batches()
    assert [numbers_of(next(batches)[0])[0] for _ in range(2)] == [0, 50]
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {tmp_path}/part-1.parquet as Parquet")):
        next(batches)
    assert threading.active_count() == before


def test_tables_that_pool_single_values_by_mean_are_told(tmp_path):
    """On CPU the mean of one embedding costs several times its sum."""
    tables = [Table("shop", 1000, 4, pooling="mean"), Table("number", 100, 4, pooling="mean"), Table("key", 9, 4)]
    sparse = [
        SparseFeature("shop"),
        SparseFeature("number", boundaries=[1.0]),
        SparseFeature("key", out_of_range="hash"),
    ]
    made = BatchConverter(Features(tables, sparse), CONVERTER.tasks)
    write_files(tmp_path, [[3]])
    assert ParquetSource(str(tmp_path), made).slow_tables() == ["number"]


# --- files of one split that differ


def write_column(folder, name, column, kind):
    table = numbered(0, len(column)).select(["shop", "number", "click", "key"])
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.array(column, kind)), folder)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("key", (["a", "b"], pa.string()), (["c", "d"], pa.dictionary(pa.int8(), pa.string()))),
        ("key", (["a", "b"], pa.large_string()), (["c", "d"], pa.string_view())),
        ("click", ([True, False], pa.bool_()), ([1, 0], pa.int8())),
        ("number", ([0.0, 1.0], pa.float32()), ([1, 2], pa.int16())),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [None, 0])
def test_files_are_read_in_one_type(tmp_path, name, first, second, seed):
    for file, (column, kind) in (("a", first), ("b", second)):
        write_column(tmp_path / f"{file}.parquet", name, column, kind)
    ((batch, keys),) = BatchReader(source_of(tmp_path), 4, seed=seed).batches()
    assert batch.num_rows == keys.num_rows == 4
    if name == "key":
        assert sorted(keys["key"].to_pylist()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("key", ([1, 2], pa.int64()), (["1", "2"], pa.string())),
        ("key", ([1, 2], pa.timestamp("ms")), ([1, 2], pa.timestamp("ms", tz="UTC"))),
        ("shop", ([1, 2], pa.int64()), ([[1], [2]], pa.list_(pa.field("element", pa.int64())))),
    ],
    ids=str,
)
def test_files_that_do_not_go_together_are_both_named(tmp_path, name, first, second):
    """Numbers here and text there would be read as different ids."""
    for file, (column, kind) in (("a", first), ("b", second)):
        write_column(tmp_path / f"{file}.parquet", name, column, kind)
    text = f"Column '{name}' has type {first[1]} in {tmp_path}/a.parquet, but {second[1]} in {tmp_path}/b.parquet: its"
    with pytest.raises(ValueError, match=re.escape(text)):
        source_of(tmp_path)


def test_more_text_than_one_column_can_count_loses_no_row(tmp_path, monkeypatch):
    """Text columns have 64-bit offsets; what still splits is an error, not a lost row."""
    write_files(tmp_path, [[3]])
    (rows,) = source_of(tmp_path).stream(source_of(tmp_path).row_groups[0])
    assert rows.schema.field("key").type == pa.large_string()
    split = pa.Table.from_batches([rows, rows])
    monkeypatch.setattr(pa, "concat_tables", lambda tables, **options: SimpleNamespace(combine_chunks=lambda: split))
    with pytest.raises(ValueError, match="6 rows are too many to shuffle as one block"):
        joined([rows, rows])


def test_a_footer_is_read_once(tmp_path, monkeypatch):
    """Else the cost would grow with the square of the row groups."""
    write_files(tmp_path, [[2] * 30])
    source, known = source_of(tmp_path), []
    whole = pq.ParquetFile

    def opened(*arguments, metadata=None, **options):
        known.append(metadata)
        return whole(*arguments, metadata=metadata, **options)

    monkeypatch.setattr(pq, "ParquetFile", opened)
    scan_labels(source)
    list(BatchReader(source, 7, seed=0).batches())
    assert len(known) == 60
    assert all(footer is not None for footer in known)


def test_one_huge_row_group_takes_no_more_memory(tmp_path):
    """Columns are read a buffer at a time."""
    rows = 400_000
    numbers = np.random.default_rng(0).random(rows)
    table = pa.table({"shop": pa.array(np.arange(rows) % 1000), "number": numbers, "click": np.zeros(rows, np.int8)})
    peaks = []
    for size in (rows, 20_000):
        folder = tmp_path / str(size)
        folder.mkdir()
        pq.write_table(table, folder / "a.parquet", row_group_size=size, compression="none", use_dictionary=False)
        source = source_of(folder, keys=())
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            assert sum(part.num_rows for part in source.stream(source.row_groups[0])) == size
        finally:
            pa.set_memory_pool(before)
        peaks.append(pool.max_memory())
    assert peaks[0] < 2 * peaks[1] + 2**21
    assert peaks[0] < 0.6 * table.nbytes


def test_a_column_whose_name_begins_alike_is_not_mixed_up(tmp_path):
    write_files(tmp_path, [[3]])
    file = tmp_path / "part-0.parquet"
    table = pq.read_table(file).append_column("shop.price", pa.array([5000, 5000, 5000]))
    pq.write_table(table, file)
    source = source_of(tmp_path)
    assert source.id_bounds(source.row_groups[0]) == {"shop": (1, 2)}
