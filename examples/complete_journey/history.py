"""Counts what was bought in the weeks strictly before each exposure's week."""

from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class Past:
    """Running totals of one kind of key, read as of the weeks before an exposure's week.

    Args:
        name: Alias under which the feature formulas read the totals.
        keys: Key columns, shared by the exposures and the purchases; none for the totals of all purchases.
        skipped_weeks: Leaves out this many weeks right before the visit's week; the difference to the full totals
            is then what happened in those weeks.
    """

    name: str
    keys: tuple[str, ...]
    skipped_weeks: int = 0


PASTS = (
    Past("everyone", ()),
    Past("everyone_older", (), skipped_weeks=4),
    Past("in_store", ("store",)),
    Past("household", ("household",)),
    Past("household_older", ("household",), skipped_weeks=8),
    Past("household_store", ("household", "store")),
    Past("household_category", ("household", "category")),
    Past("household_category_older", ("household", "category"), skipped_weeks=8),
    Past("household_category_store", ("household", "category", "store")),
    Past("household_category_manufacturer", ("household", "category", "manufacturer")),
    Past("household_type", ("household", "product_type")),
    Past("household_product", ("household", "product")),
    Past("household_manufacturer", ("household", "manufacturer")),
    Past("product", ("product",)),
    Past("product_older", ("product",), skipped_weeks=4),
    Past("product_store", ("product", "store")),
    Past("category", ("category",)),
    Past("category_older", ("category",), skipped_weeks=4),
    Past("category_store", ("category", "store")),
)

# Totals a week, all integers, hence independent of the order of summation. A visit is a household-store-week.
_WEEKLY = {
    "visits": "count(DISTINCT visit)",
    "lines": "count(*)",
    "promoted": "count(*) FILTER (promoted)",
    "private": "count(*) FILTER (private)",
    "quantity": "sum(quantity)::BIGINT",
    "cents": "sum(cents)::BIGINT",
    "discount_cents": "sum(discount_cents)::BIGINT",
}


def build_pasts(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates ``past_<name>`` for every entry of ``PASTS`` and ``past_offers``, one row per key and week exposed.

    Totals are zero where nothing happened before; ``weeks_ago`` of the last purchase is then NULL.
    """
    for past in PASTS:
        connection.execute(past_query(past))
    connection.execute(_PAST_OFFERS)


def past_query(past: Past) -> str:
    """Returns the statement that creates ``past_<name>``."""
    keys = "".join(f"{key}, " for key in past.keys)
    same_keys = "".join(f"e.{key} = t.{key} AND " for key in past.keys)
    partition = f"PARTITION BY {keys[:-2]} " if past.keys else ""
    weekly = ", ".join(f"{sql} AS {name}" for name, sql in _WEEKLY.items())
    running = ", ".join(f"sum({name}) OVER upto AS {name}" for name in _WEEKLY)
    totals = ", ".join(f"coalesce(t.{name}, 0)::BIGINT AS {name}" for name in _WEEKLY)
    return (
        f"CREATE TABLE past_{past.name} AS "
        f"SELECT e.*, {totals}, e.week - t.week AS weeks_ago "
        f"FROM (SELECT DISTINCT {keys}week FROM exposures) e ASOF LEFT JOIN ("
        f"SELECT {keys}week, {running} FROM (SELECT {keys}week, {weekly} FROM bought GROUP BY {keys}week) "
        f"WINDOW upto AS ({partition}ORDER BY week)"
        f") t ON {same_keys}e.week - {past.skipped_weeks} > t.week"
    )


# Exposures of a product in earlier weeks, all of them and not only the sampled ones.
_PAST_OFFERS = """
CREATE TABLE past_offers AS
SELECT e.*, coalesce(t.exposures, 0)::BIGINT AS exposures
FROM (SELECT DISTINCT product, week FROM exposures) e ASOF LEFT JOIN (
    SELECT product, week, sum(sum(visitors)) OVER (PARTITION BY product ORDER BY week) AS exposures
    FROM promoted JOIN (SELECT store, week, count(*) AS visitors FROM visits GROUP BY ALL) USING (store, week)
    GROUP BY product, week
) t ON e.product = t.product AND e.week > t.week
"""
