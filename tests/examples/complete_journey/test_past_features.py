import datetime
import random
from math import exp, log, sqrt

import pytest

from examples.complete_journey.exposures import SPLIT_WEEKS, SamplingRates
from examples.complete_journey.features import DENSE
from examples.complete_journey.output import IDS, LABELS
from examples.complete_journey.prepare import prepare

EVERYTHING = SamplingRates(engaged=1, not_engaged=1)
BREAD, SOUP, CAN = 11, 12, 13
DAY = datetime.datetime
TINY = {
    "products": [
        (BREAD, 1, "GROCERY", "National", "BREAD", "WHITE"),
        (SOUP, 1, "GROCERY", "Private", "SOUP", "TOMATO"),
        (CAN, 2, "GROCERY", "National", "SOUP", "CHICKEN"),
    ],
    "promotions": [(SOUP, 5, "3", "A", 10), (SOUP, 5, "0", "A", 14), (CAN, 5, "0", "A", 14)],
    "transactions": [
        (1, 5, 0, SOUP, 2, 3.0, 1.0, 10),  # promoted that week
        (1, 5, 1, BREAD, 1, 2.0, 0.0, 12),
        (1, 6, 2, SOUP, 1, 2.5, 0.0, 12),
        (2, 5, 3, CAN, 1, 4.0, 0.0, 13),
        (1, 5, 4, CAN, 9, 90.0, 9.0, 14),  # the visit itself: must leave no trace
        (3, 5, 5, BREAD, 1, 2.0, 0.0, 14),  # the first visit of another household
    ],
    "campaigns": [(7, 1), (8, 1), (9, 1), (7, 2)],
    "campaign_descriptions": [
        (7, "Type A", DAY(2017, 3, 27), DAY(2017, 3, 27)),  # starts and ends on the Monday of week 14
        (8, "Type A", DAY(2017, 3, 28), DAY(2017, 4, 30)),  # starts a day too late
        (9, "Type A", DAY(2017, 3, 1), DAY(2017, 3, 26)),  # ended the day before
    ],
    "coupons": [(1, SOUP, 7), (2, CAN, 8)],
}


@pytest.fixture(scope="module")
def tiny_rows(tmp_path_factory, write_source, read_split):
    folder = tmp_path_factory.mktemp("tiny")
    prepare(folder, rates=EVERYTHING, source=write_source(folder / "source", TINY))
    return {(row["household_id"], row["week"], row["product_id"]): row for row in read_split(folder, "train")}


@pytest.fixture
def week_14(tiny_rows):
    """The two exposures of household 1 in week 14, by product."""
    return {product: tiny_rows[1, 14, product] for product in (SOUP, CAN)}


@pytest.mark.parametrize(
    ("feature", "soup", "can"),
    [
        # SOUP cost 3.00 for two in this store; CAN was bought there once, at 4.00; category SOUP: 9.50 for four
        ("price", log(1 + 1.5) / 2, log(1 + 4.0) / 2),
        ("discount", 1 / 4, 0),
        ("price_in_category", log((5.5 / 3) / (9.5 / 4)), log(4 / (9.5 / 4))),
        # household 1: three visits, one line each; two of them in store 5; one line promoted, two Private; last week 12
        ("household_visits", *[log(1 + 3 * 52 / 13) / 5] * 2),
        ("household_recency", *[exp(-2 / 4)] * 2),
        ("household_basket", *[log(1 + 1) / 3] * 2),
        ("household_promoted_share", *[1 / 3] * 2),
        ("household_private_share", *[2 / 3] * 2),
        ("household_store_share", *[2 / 3] * 2),
        ("household_store_basket", *[log(1 + 1) / 3] * 2),
        # it bought category SOUP on two visits, always this very product
        ("household_category_visits", *[log(1 + 2) / 2] * 2),
        ("household_category_share", *[2 / 3] * 2),
        ("household_category_recency", *[exp(-2 / 8)] * 2),
        ("household_category_recent", *[2 / 3] * 2),
        ("household_category_rhythm", *[2 / (13 / 2)] * 2),  # two weeks ago, bought every 13 / 2 weeks
        ("household_category_store_share", *[1 / 2] * 2),  # on one of two visits to this store
        ("household_category_manufacturer_share", 1, 0),
        ("household_type_visits", log(1 + 2) / 2, 0),
        ("household_type_recency", exp(-2 / 8), 0),
        ("household_product_visits", log(1 + 2), 0),
        ("household_product_recency", exp(-2 / 8), 0),
        ("household_product_share", 1, 0),
        ("household_manufacturer_visits", log(1 + 3) / 3, 0),
        ("household_manufacturer_share", 1, 0),
        # everybody: four visits; SOUP on two of them, CAN on one; weeks 10 to 13 are the last four
        ("product_popularity", log(1 + 2 * 52 / 13) / 5, log(1 + 52 / 13) / 5),
        ("product_recent", log(1 + 2) / 3, log(1 + 1) / 3),
        ("product_store_popularity", log(1 + 52 / 13) / 3, log(1 + 52 / 13) / 3),
        ("product_share", sqrt(2 / 3), sqrt(1 / 3)),
        ("product_conversion", log(1 + 1000 * 2 / 1001) / 2, log(1 + 1000 * 1 / 1000) / 2),
        ("category_popularity", *[sqrt(3 / 4)] * 2),
        ("category_recent", *[sqrt(3 / 4)] * 2),
        ("category_store_popularity", *[sqrt(2 / 3)] * 2),
        ("category_offers", *[log(1 + 2) / 4] * 2),
        ("coupon", 1, 0),
    ],
)
def test_feature_equals_the_hand_calculation(week_14, feature, soup, can):
    assert week_14[SOUP][feature] == pytest.approx(soup, rel=1e-6)
    assert week_14[CAN][feature] == pytest.approx(can, rel=1e-6)


def test_a_household_without_a_past_has_zeros(tiny_rows):
    features = {name: tiny_rows[3, 14, SOUP][name] for name in DENSE if name.startswith("household_")}
    assert len(features) > 10
    assert features == dict.fromkeys(features, 0)


def test_bags_hold_what_is_known_before_the_visit(week_14):
    # ids in the order of the raw values: BREAD 1, SOUP 2; manufacturers 1 and 2; campaigns 7, 8, 9
    assert week_14[CAN]["recent_categories"] == [2, 1]  # SOUP on two visits comes before BREAD on one
    assert week_14[CAN]["recent_manufacturers"] == [1]
    assert week_14[CAN]["campaigns"] == [1]


def test_ids_follow_the_order_of_the_raw_values(week_14):
    ids = {name: week_14[SOUP][name] for name in IDS}
    assert (ids["household"], ids["store"]) == (1, 1)
    assert (ids["product"], ids["manufacturer"], ids["brand"], ids["category"]) == (2, 1, 2, 2)
    assert (ids["product_type"], ids["display"], ids["mailer"], ids["week_of_year"]) == (2, 1, 1, 14)


def test_recent_categories_forget_after_eight_weeks(tmp_path, write_source, read_split):
    tables = {
        **TINY,
        "promotions": [(SOUP, 5, "0", "A", 20), (SOUP, 5, "0", "A", 21)],
        "transactions": [
            (1, 5, 0, BREAD, 1, 2.0, 0.0, 12),
            (1, 5, 1, SOUP, 1, 2.0, 0.0, 20),
            (1, 5, 2, CAN, 1, 2.0, 0.0, 21),
        ],
    }
    prepare(tmp_path, rates=EVERYTHING, source=write_source(tmp_path / "source", tables))
    bags = {row["week"]: row["recent_categories"] for row in read_split(tmp_path, "train")}
    assert bags == {20: [1], 21: [2]}


def rewrite_the_future(tables, week):
    """Drops, alters and adds transactions from ``week`` on, and shuffles the promotions after it."""
    rng = random.Random(week)
    past = [row for row in tables["transactions"] if row[7] < week]
    future = [row for row in tables["transactions"] if row[7] >= week]
    products = [product[0] for product in tables["products"]]
    altered = [
        (*row[:3], rng.choice(products), rng.randint(0, 5), 2 * row[5] + 0.5, 0.75, *row[7:])
        for row in rng.sample(future, k=len(future) // 2)
    ]
    added = [
        (rng.randint(1, 13), rng.choice((300, 31, 4)), 9, rng.choice(products), 3, 1.0, 0.0, rng.randint(week, 53))
        for _ in range(300)
    ]
    later = [(rng.choice(products), *row[1:]) for row in tables["promotions"] if row[-1] > week]
    promotions = [row for row in tables["promotions"] if row[-1] <= week] + later
    return {**tables, "transactions": past + altered + added, "promotions": promotions}


def features_by_exposure(output, read_split, week):
    """Everything but row order and labels, of the exposures up to ``week``."""
    rows = [row for split in SPLIT_WEEKS for row in read_split(output, split) if row["week"] <= week]
    keys, others = ("household_id", "store_id", "product_id", "week"), {"row_id", *LABELS}
    return {tuple(row[key] for key in keys): {k: v for k, v in row.items() if k not in others} for row in rows}


@pytest.mark.parametrize("week", [12, 46])
def test_no_feature_knows_the_future(tmp_path, everything, write_source, read_split, random_tables, week):
    source = write_source(tmp_path / "source", rewrite_the_future(random_tables, week))
    prepare(tmp_path, rates=EVERYTHING, source=source)
    before = features_by_exposure(everything[0], read_split, week)
    after = features_by_exposure(tmp_path, read_split, week)
    common = before.keys() & after.keys()
    assert len([key for key in common if key[-1] == week]) > 50
    assert {key: before[key] for key in common} == {key: after[key] for key in common}


def test_every_dense_feature_has_a_hand_calculation():
    marks = test_feature_equals_the_hand_calculation.pytestmark
    assert [case[0] for case in marks[0].args[1]] == list(DENSE)
