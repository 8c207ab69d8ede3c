"""Joins visits with promotions, labels the pairs and samples them by stratum without ever holding all of them."""

from dataclasses import dataclass

import duckdb

SPLIT_WEEKS = {"train": (10, 44), "validation": (45, 48), "test": (49, 53)}
_MASK = 2**32 - 1

_SPLIT = (
    "CASE "
    + " ".join(f"WHEN week BETWEEN {a} AND {b} THEN {i}" for i, (a, b) in enumerate(SPLIT_WEEKS.values()))
    + " END"
)
_FIRST_WEEK = min(first for first, _ in SPLIT_WEEKS.values())
_LAST_WEEK = max(last for _, last in SPLIT_WEEKS.values())

# Exact, and cheap: no pair is formed, counts are multiplied per store-week and per store-week-category.
_POPULATION = f"""
WITH visitors AS (SELECT store, week, count(*) AS n FROM visits GROUP BY ALL),
visitors_by_category AS (SELECT store, week, category, count(DISTINCT visit) AS n FROM bought GROUP BY ALL),
offers AS (SELECT store, week, category, count(*) AS n FROM promoted GROUP BY ALL),
counts AS (
    SELECT week, v.n * o.n AS exposures, coalesce(c.n, 0) * o.n AS engaged, 0 AS purchased
    FROM offers o JOIN visitors v USING (store, week) LEFT JOIN visitors_by_category c USING (store, week, category)
    UNION ALL
    SELECT week, 0, 0, 1 FROM bought WHERE promoted
)
SELECT {_SPLIT} AS split, sum(exposures)::BIGINT, sum(engaged)::BIGINT, sum(purchased)::BIGINT
FROM counts WHERE week BETWEEN {_FIRST_WEEK} AND {_LAST_WEEK} GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class SamplingRates:
    """Share of the exposures kept in each stratum; purchases are always kept.

    Args:
        engaged: Rate among exposures with engagement and without a purchase of the product.
        not_engaged: Rate among exposures without engagement.

    Raises:
        ValueError: If a rate is not in (0, 1].
    """

    engaged: float = 0.03
    not_engaged: float = 0.005

    def __post_init__(self) -> None:
        for name in ("engaged", "not_engaged"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"Sampling rate {name!r} must be in (0, 1]; found {getattr(self, name)}")


def mix(value: str) -> str:
    """Returns SQL of a 32-bit integer hash of ``value``, an SQL expression; the same in every DuckDB version.

    Source: C. Wellons, "Prospecting for Hash Functions" (lowbias32), 2018.
    """
    value = f"(({value}) & {_MASK})::UBIGINT"
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value = f"(xor({value}, {value} >> {shift}) * {factor}::UBIGINT & {_MASK})"
    return f"xor({value}, {value} >> 16)"


_PAIR_HASH = mix("v.hash + o.hash")

# The second part joins on the category too, so the many pairs without engagement are never formed at its high rate.
_SAMPLE = f"""
CREATE TABLE sample AS
WITH offers AS (SELECT * FROM promoted JOIN product_hash USING (product) WHERE week >= {_FIRST_WEEK})
SELECT visit, o.product, o.display, o.mailer, {_PAIR_HASH} AS hash, 1 / $not_engaged AS weight,
    0::TINYINT AS engage, NULL::BIGINT AS cents
FROM visit_hash v JOIN offers o USING (store, week) ANTI JOIN engagements USING (visit, category)
WHERE {_PAIR_HASH} < $not_engaged * {_MASK + 1}
UNION ALL
SELECT v.visit, o.product, o.display, o.mailer, {_PAIR_HASH} AS hash,
    CASE WHEN b.cents IS NULL THEN 1 / $engaged ELSE 1 END, 1, b.cents
FROM visit_hash v JOIN engagements USING (visit, store, week) JOIN offers o USING (store, week, category)
LEFT JOIN bought b ON b.visit = v.visit AND b.product = o.product
WHERE b.cents IS NOT NULL OR {_PAIR_HASH} < $engaged * {_MASK + 1}
"""

# Ordering by the sampling hash itself would put one stratum first, hence the second, different hash.
_EXPOSURES = f"""
CREATE TABLE exposures AS
SELECT row_number() OVER (ORDER BY {_SPLIT}, {mix("s.hash + 1")}, household, store, week, product) - 1 AS row_id,
    {_SPLIT}::TINYINT AS split, v.household_id, v.store_id, p.product_id, v.week, v.household, v.store,
    p.product, p.manufacturer, p.brand, p.department, p.category, p.product_type,
    s.display::INTEGER AS display, s.mailer::INTEGER AS mailer, v.week AS week_of_year,
    s.engage::TINYINT AS engage, (s.cents IS NOT NULL)::TINYINT AS purchase, (s.cents / 100)::FLOAT AS value,
    s.weight::FLOAT AS sample_weight
FROM sample s JOIN visits v USING (visit) JOIN products p USING (product)
"""


def count_population(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """Returns the exact number of exposures, engaged exposures and purchases of each split, before sampling."""
    rows = {row[0]: row[1:] for row in connection.execute(_POPULATION).fetchall()}
    return {
        name: dict(zip(("exposures", "engaged", "purchased"), rows.get(index, (0, 0, 0)), strict=True))
        for index, name in enumerate(SPLIT_WEEKS)
    }


def build_exposures(connection: duckdb.DuckDBPyConnection, seed: int, rates: SamplingRates) -> None:
    """Creates ``exposures``: the sampled, labelled pairs, with ``split`` and a shuffled ``row_id``.

    A pair is kept when the hash of (seed, household, store, week, product) falls below its stratum's rate, so the
    sample depends neither on threads nor on row order.
    """
    connection.execute(f"CREATE TABLE product_hash AS SELECT product, {mix('product_id')} AS hash FROM products")
    connection.execute(
        f"CREATE TABLE visit_hash AS SELECT visit, store, week, {mix('hash + week')} AS hash "
        f"FROM (SELECT * REPLACE ({mix('hash + store_id')} AS hash) "
        f"FROM (SELECT *, {mix(f'{mix(str(seed))} + household_id')} AS hash "
        f"FROM visits WHERE week BETWEEN {_FIRST_WEEK} AND {_LAST_WEEK}))"
    )
    connection.execute("CREATE TABLE engagements AS SELECT DISTINCT visit, store, week, category FROM bought")
    connection.execute(_SAMPLE, {"engaged": rates.engaged, "not_engaged": rates.not_engaged})
    connection.execute(_EXPOSURES)
    for table in ("product_hash", "visit_hash", "engagements", "sample"):
        connection.execute(f"DROP TABLE {table}")
