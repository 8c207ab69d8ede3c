"""A job whose ids are strings: looked up, hashed and put into buckets, from the command to predictions."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.synthetic import BRANDS, SHOPS, impressions, job, write_job, write_split
from torchrec_mtl import cli


def named(table):
    """The same impressions with names instead of numbers, and the price once more as a column for buckets."""
    shop = pc.binary_join_element_wise("shop", table["shop"].cast(pa.string()), " ").combine_chunks()
    brands = table["brands"].combine_chunks()
    names = pa.ListArray.from_arrays(brands.offsets, pc.cast(brands.values, pa.string()))
    table = table.set_column(table.schema.get_field_index("shop"), "shop", shop.dictionary_encode())
    table = table.set_column(table.schema.get_field_index("brands"), "brands", names)
    return table.append_column("level", table["price"])


def test_a_job_with_strings_trains_and_predicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, (split, rows) in enumerate({"train": 1500, "validation": 200, "test": 301}.items()):
        write_split(tmp_path / split, named(impressions(rows, seed)))
    made = cli.run(["vocab", "--rows=[train]", "--columns={shop: [shop]}", "--min_count=2", "--output=vocabulary"])
    assert made["shop"].kept <= SHOPS
    content = job(tmp_path)
    content["features"] = {
        "tables": [
            {"name": "shop", "rows": made["shop"].rows, "dimension": 8},
            {"name": "brands", "rows": 4 * BRANDS, "dimension": 8, "pooling": "mean"},
            {"name": "level", "rows": 4, "dimension": 4},
        ],
        "sparse": [
            {"name": "shop", "vocabulary": "vocabulary/shop.parquet"},
            {"name": "brands", "out_of_range": "hash"},
            {"name": "level", "boundaries": [-1, 0, 1.5]},
        ],
        "dense": [],
    }
    del content["network"]["dense"]
    path = write_job(tmp_path / "job.yaml", content)
    metrics = cli.run(["train", "--config", path])
    # clicks depend on shop and price alone: chance is 0.5 with a standard deviation of 0.03 on 301 rows
    assert metrics["ctr"]["auc"] > 0.65
    cli.run(["predict", "--config", path, "--rows=[test]", f"--predictions={tmp_path}/out"])
    found = pq.read_table(tmp_path / "out")
    assert found.num_rows == 301
    assert np.isfinite(found["ctr"].to_numpy()).all()


def test_a_string_column_without_a_declaration_names_the_ways_out(tmp_path):
    for split in ("train", "validation", "test"):
        write_split(tmp_path / split, named(impressions(64)))
    path = write_job(tmp_path / "job.yaml", job(tmp_path))
    with pytest.raises(ValueError, match=r"column 'shop' must hold integers .* out_of_range: hash.* vocabulary"):
        cli.run(["train", "--config", path])
