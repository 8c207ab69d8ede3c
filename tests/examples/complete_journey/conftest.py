"""A small synthetic source in the shape of the Complete Journey files."""

import datetime
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.complete_journey.exposures import SamplingRates
from examples.complete_journey.prepare import prepare

SCHEMAS = {
    "transactions": {
        "household_id": pa.int64(),
        "store_id": pa.int64(),
        "basket_id": pa.int64(),
        "product_id": pa.int64(),
        "quantity": pa.int64(),
        "sales_value": pa.float64(),
        "retail_disc": pa.float64(),
        "week": pa.int64(),
        "transaction_timestamp": pa.timestamp("us"),
    },
    "promotions": {
        "product_id": pa.int64(),
        "store_id": pa.int64(),
        "display_location": pa.string(),
        "mailer_location": pa.string(),
        "week": pa.int64(),
    },
    "products": {
        "product_id": pa.int64(),
        "manufacturer_id": pa.int64(),
        "department": pa.string(),
        "brand": pa.string(),
        "product_category": pa.string(),
        "product_type": pa.string(),
    },
    "campaigns": {"campaign_id": pa.int64(), "household_id": pa.int64()},
    "campaign_descriptions": {
        "campaign_id": pa.int64(),
        "campaign_type": pa.string(),
        "start_date": pa.timestamp("us"),
        "end_date": pa.timestamp("us"),
    },
    "coupons": {"coupon_upc": pa.int64(), "product_id": pa.int64(), "campaign_id": pa.int64()},
}


WEEK_ONE = datetime.datetime(2016, 12, 26)


def noon(week: int) -> datetime.datetime:
    """Noon in UTC on the Monday of ``week``."""
    return WEEK_ONE + datetime.timedelta(weeks=week - 1, hours=12)


@pytest.fixture(scope="session")
def write_source():
    """Writes ``{table: rows as tuples}`` as Parquet files; tables left out are empty.

    A transaction without its last column, the time, was made at ``noon`` of its week.
    """

    def write(folder: Path, tables: dict[str, list[tuple]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [(*row, noon(row[7])) if len(row) == 8 else row for row in tables.get("transactions", [])]
        for name, columns in SCHEMAS.items():
            filled = {**tables, "transactions": lines}.get(name, [])
            rows = [dict(zip(columns, row, strict=True)) for row in filled]
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), folder / f"{name}.parquet")
        return folder

    return write


@pytest.fixture(scope="session")
def read_split():
    """Reads one split as a list of dicts."""

    def read(output: Path, split: str) -> list[dict]:
        return pq.read_table(output / split).to_pylist()

    return read


@pytest.fixture(scope="session")
def random_tables():
    """Thirteen households, three stores, 40 products in five categories and none, all 53 weeks."""
    rng = random.Random(7)
    categories = ("BREAD", "CHEESE", "COLD CEREAL", "SOUP", "YOGURT", None)
    products = [
        (100 + 7 * i, 10 + i % 6, "GROCERY", rng.choice(["National", "Private"]), categories[i % 6], f"TYPE {i % 12}")
        for i in range(40)
    ]
    stores, ids = (300, 31, 4), [product[0] for product in products]
    promotions = [
        (product, store, rng.choice("0012A"), rng.choice("0ADZ"), week)
        for week in range(1, 54)
        for store in stores
        for product in rng.choices(ids, k=12)  # choices repeat: duplicates as in the real promotions
    ]
    prices = (0.0, 0.99, 2.5, 4.19)
    transactions = [
        (household, store, 0, product, rng.choice([0, 1, 1, 1, 2]), rng.choice(prices), 0.25, week, time)
        for week in range(1, 54)
        for household in range(1, 14)
        for store in stores
        if rng.random() < 0.5
        for time in [noon(week) + datetime.timedelta(hours=12 * rng.randint(0, 13))]  # 13: past midnight in UTC
        for product in rng.sample(ids, k=rng.randint(1, 8))
    ]
    rng.shuffle(transactions)  # the order of the file says nothing
    day = datetime.datetime
    descriptions = [
        (26, "Type A", day(2017, 3, 6), day(2017, 6, 1)),  # Monday of week 11
        (27, "Type B", day(2017, 3, 7), day(2017, 12, 24)),  # the day after it
    ]
    campaigns = [(26, 1), (26, 2), (27, 2), (27, 3)]
    coupons = [(1, ids[0], 26), (2, ids[0], 26), (3, ids[1], 27), (4, ids[2], 27)]
    return {
        "transactions": transactions,
        "promotions": promotions,
        "products": products,
        "campaigns": campaigns,
        "campaign_descriptions": descriptions,
        "coupons": coupons,
    }


@pytest.fixture(scope="session")
def everything(tmp_path_factory, write_source, random_tables):
    """All exposures of the random source, unsampled: folder and manifest."""
    folder = tmp_path_factory.mktemp("everything")
    source = write_source(folder / "source", random_tables)
    return folder, prepare(folder, rates=SamplingRates(engaged=1, not_engaged=1), source=source)
