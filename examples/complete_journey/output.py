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
from examples.complete_journey.sequences import SEQUENCES
from examples.complete_journey.source import VOCABULARIES

FILES = {"train": 8, "validation": 2, "test": 2}
ROWS_PER_GROUP = 16_384
COMPRESSION_LEVEL = 3  # of zstd; files are a tenth smaller than at level 1, and level 6 gains only 3 % more

KEYS = ("row_id", "household_id", "store_id", "product_id", "week")
IDS = (*(name for name in VOCABULARIES if name != "campaign"), "week_of_year")
LABELS = ("engage", "purchase", "value", "sample_weight")
_IDS_LIST = pa.list_(pa.field("element", pa.int32(), nullable=False))
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int32() if name == "week" else pa.int64(), nullable=False) for name in KEYS),
        *(pa.field(name, pa.int32(), nullable=False) for name in IDS),
        *(pa.field(name, _IDS_LIST, nullable=False) for name in (*BAGS, *SEQUENCES)),
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
    first, count = bounds.fetchall()[0]
    edges = [first + count * part // FILES[split] for part in range(FILES[split] + 1)]
    columns = ", ".join(name for name in SCHEMA.names if name not in SEQUENCES)
    sequences = connection.sql(f"SELECT {', '.join(SEQUENCES)} FROM sequences ORDER BY sequence").to_arrow_table()
    sequences = sequences.combine_chunks()
    for part, (start, stop) in enumerate(pairwise(edges)):
        rows = connection.sql(
            f"SELECT {columns}, sequence FROM features "
            "JOIN bags USING (household, week) JOIN sequences USING (household, week) "
            f"WHERE row_id >= {start} AND row_id < {stop} ORDER BY row_id"
        ).to_arrow_table()
        write_rows(rows, sequences, folder / f"part-{part:05d}.parquet")


def write_rows(rows: pa.Table, sequences: pa.Table, path: Path) -> None:
    """Writes ``rows`` with their sequences, which are joined a row group at a time: they are the most of the bytes."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=COMPRESSION_LEVEL) as writer:
        for start in range(0, rows.num_rows, ROWS_PER_GROUP):
            group = rows.slice(start, ROWS_PER_GROUP).combine_chunks()  # the ends of pages would show the chunks
            lists = sequences.take(group["sequence"])
            columns = [(lists if name in SEQUENCES else group)[name] for name in SCHEMA.names]
            writer.write_table(pa.table(columns, names=SCHEMA.names).cast(SCHEMA), row_group_size=ROWS_PER_GROUP)


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
