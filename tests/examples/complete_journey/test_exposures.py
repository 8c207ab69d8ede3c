import math

import duckdb
import pytest

from examples.complete_journey.exposures import SPLIT_WEEKS, SamplingRates, mix
from examples.complete_journey.prepare import prepare

EVERYTHING = SamplingRates(engaged=1, not_engaged=1)
BREAD, SOUP, CAN, NAMELESS = 11, 12, 13, 14
TINY = {
    "products": [
        (BREAD, 1, "GROCERY", "National", "BREAD", "WHITE"),
        (SOUP, 1, "GROCERY", "Private", "SOUP", "TOMATO"),
        (CAN, 2, "GROCERY", "National", "SOUP", "CHICKEN"),
        (NAMELESS, 2, "GROCERY", "National", None, None),
    ],
    "promotions": [(product, 5, "0", "A", 20) for product in (BREAD, SOUP, CAN, NAMELESS)],
    "transactions": [
        (1, 5, 0, SOUP, 1, 1.25, 0.0, 20),  # bought in two baskets of the same week
        (1, 5, 1, SOUP, 2, 2.5, 0.0, 20),
        (2, 5, 2, BREAD, 0, 0.0, 0.0, 20),  # nothing handed over
        (2, 5, 2, CAN, 1, 0.0, 1.0, 20),  # nothing paid
        (3, 6, 3, SOUP, 1, 1.0, 0.0, 20),  # a store without promotions
        (3, 5, 3, SOUP, 1, 1.0, 0.0, 19),  # a week without promotions
        (4, 5, 4, NAMELESS, 1, 7.0, 0.0, 20),  # a visit, but of no category
    ],
}


def expected_labels(tables):
    """The definitions, written as plain loops: (household, store, product, week) -> (engage, value or None)."""
    category = {product[0]: product[4] for product in tables["products"]}
    visits, spent = set(), {}
    for household, store, _, product, quantity, value, _, week, *_ in tables["transactions"]:
        visits.add((household, store, week))
        if quantity > 0 and value > 0:
            key = (household, store, product, week)
            spent[key] = spent.get(key, 0) + value
    engaged = {(h, s, category[p], w) for h, s, p, w in spent}
    offers = {(product, store, week) for product, store, _, _, week in tables["promotions"] if category[product]}
    return {
        (h, s, p, w): ((h, s, category[p], w) in engaged, spent.get((h, s, p, w)))
        for h, s, w in visits
        for p, store, week in offers
        if (store, week) == (s, w) and w >= 10
    }


def key_of(row):
    return row["household_id"], row["store_id"], row["product_id"], row["week"]


def test_labels_of_a_tiny_hand_made_source(tmp_path, write_source, read_split):
    prepare(tmp_path / "out", rates=EVERYTHING, source=write_source(tmp_path / "source", TINY))
    rows = {
        key_of(row)[::2]: (row["engage"], row["purchase"], row["value"])
        for row in read_split(tmp_path / "out", "train")
    }
    assert rows == {
        (1, BREAD): (0, 0, None),
        (1, SOUP): (1, 1, 3.75),
        (1, CAN): (1, 0, None),
        **dict.fromkeys([(2, BREAD), (2, SOUP), (2, CAN)], (0, 0, None)),
        **dict.fromkeys([(4, BREAD), (4, SOUP), (4, CAN)], (0, 0, None)),
    }


def test_exposures_and_labels_equal_the_definitions_written_as_loops(everything, random_tables, read_split):
    rows = [row for split in SPLIT_WEEKS for row in read_split(everything[0], split)]
    expected = expected_labels(random_tables)
    assert len(rows) == len(expected)
    for row in rows:
        engage, value = expected[key_of(row)]
        assert row["engage"] == engage
        assert row["purchase"] == (value is not None)
        assert row["value"] == (None if value is None else pytest.approx(value))
        assert row["sample_weight"] == 1


def test_purchase_implies_engagement_and_only_purchases_have_a_value(everything, read_split):
    rows = [row for split in SPLIT_WEEKS for row in read_split(everything[0], split)]
    assert {(row["engage"], row["purchase"]) for row in rows} == {(0, 0), (1, 0), (1, 1)}
    assert all((row["value"] is not None) == row["purchase"] for row in rows)


def test_each_split_holds_exactly_its_weeks(everything, read_split):
    weeks = {split: {row["week"] for row in read_split(everything[0], split)} for split in SPLIT_WEEKS}
    assert weeks == {"train": set(range(10, 45)), "validation": set(range(45, 49)), "test": set(range(49, 54))}


def test_manifest_counts_the_population_exactly(everything, random_tables):
    expected = expected_labels(random_tables)
    for split, (first, last) in SPLIT_WEEKS.items():
        labels = [label for key, label in expected.items() if first <= key[3] <= last]
        population = everything[1]["splits"][split]["population"]
        assert population["exposures"] == len(labels)
        assert population["engaged"] == sum(engage for engage, _ in labels)
        assert population["purchased"] == sum(value is not None for _, value in labels)


def test_weighted_sample_restores_the_population(tmp_path, write_source, read_split, random_tables):
    rates = SamplingRates(engaged=0.5, not_engaged=0.2)
    manifest = prepare(tmp_path / "out", rates=rates, source=write_source(tmp_path / "source", random_tables))
    for split, summary in manifest["splits"].items():
        rows = read_split(tmp_path / "out", split)
        weights = {(0, 0): 1 / 0.2, (1, 0): 1 / 0.5, (1, 1): 1}
        assert all(row["sample_weight"] == weights[row["engage"], row["purchase"]] for row in rows)
        population = summary["population"]
        assert sum(row["purchase"] for row in rows) == population["purchased"]
        only_engaged = population["engaged"] - population["purchased"]
        not_engaged = population["exposures"] - population["engaged"]
        weighted_engaged = sum(row["sample_weight"] for row in rows if row["engage"])
        weighted_not_engaged = sum(row["sample_weight"] for row in rows if not row["engage"])
        # the standard deviation of Binomial(n, r) / r is sqrt(n (1 - r) / r)
        assert abs(weighted_engaged - population["engaged"]) <= 4 * math.sqrt(only_engaged * 0.5 / 0.5)
        assert abs(weighted_not_engaged - not_engaged) <= 4 * math.sqrt(not_engaged * 0.8 / 0.2)
        assert summary["weighted_sample"]["engaged"] == pytest.approx(weighted_engaged, abs=1)


def test_a_lower_rate_keeps_a_subset(tmp_path, write_source, read_split, random_tables):
    source = write_source(tmp_path / "source", random_tables)
    kept = {}
    for rate in (0.2, 0.4):
        prepare(tmp_path / str(rate), rates=SamplingRates(rate, rate), source=source)
        kept[rate] = {key_of(row) for row in read_split(tmp_path / str(rate), "train")}
    assert kept[0.2] < kept[0.4]


def test_hash_is_the_published_one():
    def lowbias32(x):
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    values = [0, 1, 2, 12345, 2**31, 2**32 - 1]
    hashes = [duckdb.sql(f"SELECT {mix(str(value))}").fetchall()[0][0] for value in values]
    assert hashes == [lowbias32(value) for value in values]


@pytest.mark.parametrize("rate", [0, -0.1, 1.5])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=rf"Sampling rate 'engaged' must be in \(0, 1\]; found {rate}"):
        SamplingRates(engaged=rate)
