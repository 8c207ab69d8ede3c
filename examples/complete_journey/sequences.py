"""Sequences: a household's last purchases before the week of an exposure, oldest first, as aligned lists."""

import duckdb

from examples.complete_journey.source import LAST_WEEK, monday

SEQUENCE_LIMIT = 50
_PRODUCT_COLUMNS = ("product", "category", "manufacturer", "department")

# Column -> the embedding table whose ids it holds. Days index a table of their own.
SEQUENCE_VOCABULARIES = {**{f"past_{name}": name for name in _PRODUCT_COLUMNS}, "past_days": "past_days"}
SEQUENCES = tuple(SEQUENCE_VOCABULARIES)
DAYS_TABLE_SIZE = 7 * (LAST_WEEK - 1) + 1  # from the Monday of week 1 to that of the last week

# Lines of one moment and one product are alike in every column, so this order has no ties that could show.
_ORDERED_LINES = """
CREATE TABLE ordered_lines AS
SELECT l.household, l.week, l.date, l.product, p.category, p.manufacturer, p.department,
    row_number() OVER (PARTITION BY l.household ORDER BY l.time, l.product) AS place
FROM purchase_lines l JOIN products p USING (product)
"""

_WHOLE_HISTORIES = """
CREATE TABLE whole_histories AS SELECT household, {columns} FROM ordered_lines GROUP BY household
"""

# The weeks are in the order of the lines: those before a week are the first ``lines`` of the whole history.
_SEQUENCES = """
CREATE TABLE sequences AS
SELECT row_number() OVER (ORDER BY w.household, w.week) - 1 AS sequence, w.household, w.week, {columns}
FROM household_weeks w
ASOF LEFT JOIN (SELECT household, week, max(place) AS lines FROM ordered_lines GROUP BY ALL) past
ON w.household = past.household AND w.week > past.week
LEFT JOIN whole_histories h ON h.household = w.household
"""


def build_sequences(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates ``sequences``, one row per household and week exposed, numbered by ``sequence`` from 0.

    Every list has ``min(SEQUENCE_LIMIT, n)`` entries, where ``n`` is the number of the household's purchase lines in
    earlier weeks: the last ones, newest last. ``past_days`` counts from the day of a purchase to the Monday of the
    week, hence is at least 1. Drops ``purchase_lines``.
    """
    connection.execute(_ORDERED_LINES)
    columns = ", ".join(f"list({name} ORDER BY place) AS {name}" for name in (*_PRODUCT_COLUMNS, "date"))
    connection.execute(_WHOLE_HISTORIES.format(columns=columns))
    slices = {f"past_{name}": _last(name) for name in _PRODUCT_COLUMNS}
    days = f"list_transform({_last('date')}, lambda date: {monday('w.week')} - date)"
    connection.execute(
        _SEQUENCES.format(
            columns=", ".join(
                f"coalesce({sql}, [])::INTEGER[] AS {name}" for name, sql in {**slices, "past_days": days}.items()
            )
        )
    )
    for table in ("purchase_lines", "ordered_lines", "whole_histories"):
        connection.execute(f"DROP TABLE {table}")


def _last(name: str) -> str:
    """The end of the whole history as it stood before the week; a first place below 1 would count from its end."""
    return f"list_slice(h.{name}, greatest(past.lines - {SEQUENCE_LIMIT - 1}, 1), past.lines)"
