"""Paths and addresses: local, fsspec's and pyarrow's."""

import re

import fsspec
import pyarrow.parquet as pq
import pytest

from tests.data.numbered import CONVERTER, numbered, numbers_of, write_files
from torchrec_mtl.data import BatchReader, ParquetSource
from torchrec_mtl.data.files import find_files
from torchrec_mtl.data.open import open_source


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    for name, start in (("split/day=1/a.parquet", 0), ("split/day=2/b.parquet", 3)):
        with system.open(name, "wb") as file:
            pq.write_table(numbered(start, start + 3), file)
    with system.open("split/notes.txt", "wb") as file:
        file.write(b"no rows")
    yield "memory://split"
    system.rm("split", recursive=True)


@pytest.mark.parametrize("path", ["", "/", "/day=*/*.parquet", "/*/a.parquet", "/day=1/a.parquet"])
def test_an_address_is_a_file_a_directory_or_a_glob(memory, path):
    source = ParquetSource(f"{memory}{path}", CONVERTER)
    rows = [number for batch, _ in BatchReader(source, 2).batches() for number in numbers_of(batch)]
    assert rows == (list(range(3)) if "a.parquet" in path else list(range(6)))
    assert all(file.startswith("memory://") and file.endswith(".parquet") for file in source.files)


def test_pyarrow_reads_what_fsspec_does_not_know(tmp_path, monkeypatch):
    """Hadoop or Azure without a package of their own: pyarrow has them built in."""
    write_files(tmp_path, [[3], [2]])

    def unknown(address):
        raise ImportError(f"no package for {address}")

    monkeypatch.setattr(fsspec.core, "url_to_fs", unknown)
    source = ParquetSource(f"file://{tmp_path}", CONVERTER)
    assert source.rows == 5
    assert source.files == [f"file://{tmp_path}/part-0.parquet", f"file://{tmp_path}/part-1.parquet"]
    rows = [number for batch, _ in BatchReader(source, 4, seed=0).batches() for number in numbers_of(batch)]
    assert sorted(rows) == list(range(5))


def test_an_unknown_scheme_is_named():
    text = "Cannot read 'nosuch://bucket/x': neither fsspec (Protocol not known: nosuch) nor pyarrow ("
    with pytest.raises(ValueError, match=re.escape(text) + ".*s3fs"):
        find_files("nosuch://bucket/x")


def test_an_address_without_a_file_is_an_error(memory):
    with pytest.raises(ValueError, match="No Parquet file at 'memory://split/hour=\\*'"):
        find_files("memory://split/hour=*")


def test_a_corrupt_file_at_an_address_is_named(memory):
    with fsspec.filesystem("memory").open("split/day=1/a.parquet", "wb") as file:
        file.write(b"garbage, long enough to be read")
    with pytest.raises(ValueError, match=r"Cannot read memory://.*split/day=1/a.parquet as Parquet"):
        ParquetSource(memory, CONVERTER)


def test_parquet_and_csv_do_not_mix(tmp_path):
    with pytest.raises(ValueError, match=r"from Parquet or from CSV, but found both: \['a.csv', 'b'\]"):
        open_source(["a.csv", "b"], CONVERTER)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_glob_finds_files_at_any_depth_and_whole_directories(tmp_path, scheme):
    """Spark writes directories named like files, and keeps drafts beside them."""
    for name in ("a", "day=1/b", "day=1/hour=2/c", "whole.parquet/d", "day=1/_temporary/x", "day=1/.hidden/y"):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(numbered(0, 1), path)

    def names(pattern):
        return [each.removeprefix(f"{scheme}{tmp_path}/") for each in find_files(f"{scheme}{tmp_path}{pattern}")]

    everything = ["a.parquet", "day=1/b.parquet", "day=1/hour=2/c.parquet", "whole.parquet/d.parquet"]
    assert names("") == everything
    assert names("/day=*") == everything[1:3]
    assert names("/*.parquet") == [everything[0], everything[3]]
    assert set(everything) <= set(names("/**/*.parquet"))


def test_a_host_stays_in_the_address(monkeypatch):
    """hdfs://host:port/data is /data in its file system."""

    class Far:
        def exists(self, path):
            return path == "/data"

        def isfile(self, path):
            return path.endswith(".parquet")

        def find(self, path):
            return [f"{path}/b.parquet", f"{path}/_SUCCESS", f"{path}/a.parquet"]

    monkeypatch.setattr("torchrec_mtl.data.files.file_system", lambda address: (Far(), "/data"))
    expected = ["hdfs://host:8020/data/a.parquet", "hdfs://host:8020/data/b.parquet"]
    assert find_files("hdfs://host:8020/data") == expected
