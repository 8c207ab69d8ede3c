"""Dense features: formulas over the past counts, each compressed to a range fit for a neural network."""

import duckdb

from examples.complete_journey.history import PASTS

_PRICE = "{0}.cents / {0}.quantity / 100.0"
_DISCOUNT = "{0}.discount_cents / ({0}.cents + {0}.discount_cents)"
_NEAREST = ("product_store", "product", "category", "everyone")


def _nearest(formula: str) -> str:
    """Takes ``formula`` from the closest past in which anything was bought."""
    cases = " ".join(f"WHEN {name}.quantity > 0 THEN {formula.format(name)}" for name in _NEAREST)
    return f"CASE {cases} ELSE 0 END"


def _ratio(part: str, whole: str) -> str:
    return f"CASE WHEN {whole} > 0 THEN ({part})::DOUBLE / ({whole}) ELSE 0 END"


def _recency(name: str, weeks: int) -> str:
    """1 would be this very week, 0 never; falls by the factor e every ``weeks`` weeks."""
    return f"coalesce(exp(-{name}.weeks_ago / {weeks}.0), 0)"


def _yearly(name: str) -> str:
    """Past visits extrapolated to 52 weeks, so that early and late weeks compare."""
    return f"{name}.visits * 52.0 / greatest(e.week - 1, 1)"


DENSE = {
    # price
    "price": f"ln(1 + {_nearest(_PRICE)}) / 2",
    "discount": _nearest(_DISCOUNT),
    "price_in_category": "CASE WHEN product.quantity > 0 THEN greatest(-2, least(2, "
    f"ln(({_PRICE.format('product')}) / ({_PRICE.format('category')})))) ELSE 0 END",
    # household
    "household_visits": f"ln(1 + {_yearly('household')}) / 5",
    "household_recency": _recency("household", 4),
    "household_basket": f"ln(1 + {_ratio('household.lines', 'household.visits')}) / 3",
    "household_promoted_share": _ratio("household.promoted", "household.lines"),
    "household_private_share": _ratio("household.private", "household.lines"),
    "household_store_share": _ratio("household_store.visits", "household.visits"),
    "household_store_basket": f"ln(1 + {_ratio('household_store.lines', 'household_store.visits')}) / 3",
    # household and category, product type, product, manufacturer
    "household_category_visits": "ln(1 + household_category.visits) / 2",
    "household_category_share": _ratio("household_category.visits", "household.visits"),
    "household_category_recency": _recency("household_category", 8),
    "household_category_recent": _ratio(
        "household_category.visits - household_category_older.visits", "household.visits - household_older.visits"
    ),
    "household_category_rhythm": "least(3, "
    + _ratio("coalesce(household_category.weeks_ago, 0) * household_category.visits", "e.week - 1")
    + ")",
    "household_category_store_share": _ratio("household_category_store.visits", "household_store.visits"),
    "household_category_manufacturer_share": _ratio(
        "household_category_manufacturer.visits", "household_category.visits"
    ),
    "household_type_visits": "ln(1 + household_type.visits) / 2",
    "household_type_recency": _recency("household_type", 8),
    "household_product_visits": "ln(1 + household_product.visits)",
    "household_product_recency": _recency("household_product", 8),
    "household_product_share": _ratio("household_product.visits", "household_category.visits"),
    "household_manufacturer_visits": "ln(1 + household_manufacturer.visits) / 3",
    "household_manufacturer_share": _ratio("household_manufacturer.visits", "household.visits"),
    # product
    "product_popularity": f"ln(1 + {_yearly('product')}) / 5",
    "product_recent": "ln(1 + product.visits - product_older.visits) / 3",
    "product_store_popularity": f"ln(1 + {_yearly('product_store')}) / 3",
    "product_share": f"sqrt({_ratio('product.visits', 'category.visits')})",
    "product_conversion": "ln(1 + 1000.0 * (product.promoted + 1) / (offers.exposures + 1000)) / 2",
    # category
    "category_popularity": f"sqrt({_ratio('category.visits', 'everyone.visits')})",
    "category_recent": "sqrt("
    + _ratio("category.visits - category_older.visits", "everyone.visits - everyone_older.visits")
    + ")",
    "category_store_popularity": f"sqrt({_ratio('category_store.visits', 'in_store.visits')})",
    "category_offers": "ln(1 + category_offers.products) / 4",
    "coupon": "(coupons.product IS NOT NULL)::INTEGER",
}


def build_features(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates ``features``: the exposures with one float32 column for every entry of ``DENSE``."""
    # Every exposure has its row in each past. Left joins all the same: they keep DuckDB from joining pasts by week.
    joins = " ".join(
        f"LEFT JOIN past_{past.name} {past.name} ON e.week = {past.name}.week"
        + "".join(f" AND e.{key} = {past.name}.{key}" for key in past.keys)
        for past in PASTS
    )
    dense = ", ".join(f"({sql})::FLOAT AS {name}" for name, sql in DENSE.items())
    connection.execute(
        f"CREATE TABLE features AS SELECT e.*, {dense} FROM exposures e {joins} "
        "LEFT JOIN past_offers offers ON e.product = offers.product AND e.week = offers.week "
        f"LEFT JOIN ({_CATEGORY_OFFERS}) category_offers "
        "ON e.store = category_offers.store AND e.week = category_offers.week "
        "AND e.category = category_offers.category "
        f"LEFT JOIN ({_COUPONS}) coupons "
        "ON e.household = coupons.household AND e.week = coupons.week AND e.product = coupons.product"
    )


# Known before the visit: what the store promotes that week.
_CATEGORY_OFFERS = "SELECT store, week, category, count(*) AS products FROM promoted GROUP BY ALL"

# Known before the visit: coupons of the campaigns that run and were addressed to the household.
_COUPONS = """
SELECT DISTINCT e.household, e.week, e.product
FROM exposures e
JOIN running_campaigns r USING (household, week)
JOIN source_coupons c ON c.campaign_id = r.campaign_id AND c.product_id = e.product_id
"""
