"""Writes the prepared rows as Parquet files of fixed schema and summarises them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from examples.complete_journey.bags import BAGS
from examples.complete_journey.exposures import SPLIT_WEEKS, count_population
from examples.complete_journey.features import DENSE
from examples.complete_journey.source import VOCABULARIES

FILES = {"train": 8, "validation": 2, "test": 2}
ROWS_PER_GROUP = 16_384

KEYS = ("row_id", "household_id", "store_id", "product_id", "week")
IDS = (*(name for name in VOCABULARIES if name != "campaign"), "week_of_year")
LABELS = ("engage", "purchase", "value", "sample_weight")
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int32() if name == "week" else pa.int64(), nullable=False) for name in KEYS),
        *(pa.field(name, pa.int32(), nullable=False) for name in IDS),
        *(pa.field(name, pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False) for name in BAGS),
        *(pa.field(name, pa.float32(), nullable=False) for name in DENSE),
        pa.field("engage", pa.int8(), nullable=False),
        pa.field("purchase", pa.int8(), nullable=False),
        pa.field("value", pa.float32()),
        pa.field("sample_weight", pa.float32(), nullable=False),
    ]
)

_SUMMARY = """
SELECT split, count(*), sum(engage)::BIGINT, sum(purchase)::BIGINT,
    count(*) FILTER (engage = 0), count(*) FILTER (engage = 1 AND purchase = 0)
FROM exposures GROUP BY split ORDER BY split
"""


def write_vocabularies(connection: duckdb.DuckDBPyConnection, output: Path) -> None:
    """Writes ``vocabulary/<name>.parquet`` with the columns ``id`` and ``value``."""
    folder = _empty_folder(output / "vocabulary")
    for name in VOCABULARIES:
        table = connection.sql(f"SELECT id, value FROM vocabulary_{name} ORDER BY id").to_arrow_table()
        pq.write_table(table, folder / f"{name}.parquet")


def write_split(connection: duckdb.DuckDBPyConnection, output: Path, split: str) -> None:
    """Writes the rows of ``split``, in the order of ``row_id``, as several files of nearly equal size."""
    folder = _empty_folder(output / split)
    number = list(SPLIT_WEEKS).index(split)
    bounds = connection.sql(f"SELECT coalesce(min(row_id), 0), count(*) FROM exposures WHERE split = {number}")
    first, rows = bounds.fetchall()[0]
    edges = [first + rows * part // FILES[split] for part in range(FILES[split] + 1)]
    columns = ", ".join(SCHEMA.names)
    for part, (start, stop) in enumerate(pairwise(edges)):
        table = connection.sql(
            f"SELECT {columns} FROM features JOIN bags USING (household, week) "
            f"WHERE row_id >= {start} AND row_id < {stop} ORDER BY row_id"
        ).to_arrow_table()
        path = folder / f"part-{part:05d}.parquet"
        pq.write_table(table.cast(SCHEMA), path, row_group_size=ROWS_PER_GROUP, compression="zstd")


def summarize(
    connection: duckdb.DuckDBPyConnection, engaged_rate: float, not_engaged_rate: float
) -> dict[str, dict[str, Any]]:
    """Returns, per split, rows, exact population counts, what the weighted sample makes of them, and true rates."""
    population = count_population(connection)
    sampled = {row[0]: row[1:] for row in connection.sql(_SUMMARY).fetchall()}
    summary = {}
    for number, split in enumerate(SPLIT_WEEKS):
        rows, engaged, purchased, not_engaged, only_engaged = sampled.get(number, (0, 0, 0, 0, 0))
        exact = population[split]
        weighted_engaged = purchased + only_engaged / engaged_rate
        total = max(exact["exposures"], 1)
        summary[split] = {
            "rows": rows,
            "sampled": {"engaged": engaged, "purchased": purchased},
            "population": exact,
            "weighted_sample": {
                "exposures": round(weighted_engaged + not_engaged / not_engaged_rate),
                "engaged": round(weighted_engaged),
                "purchased": purchased,
            },
            "population_rates": {"engage": exact["engaged"] / total, "purchase": exact["purchased"] / total},
        }
    return summary


def _empty_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.parquet"):
        stale.unlink()
    return folder
