"""The last purchases of a household, against a hand-made case and a slow, obvious reference."""

import datetime
from zoneinfo import ZoneInfo

import pytest

from examples.complete_journey.exposures import SPLIT_WEEKS, SamplingRates
from examples.complete_journey.prepare import prepare
from examples.complete_journey.sequences import DAYS_TABLE_SIZE, SEQUENCES

EVERYTHING = SamplingRates(engaged=1, not_engaged=1)
BREAD, SOUP, CAN, UNKNOWN = 11, 12, 13, 14
AT = datetime.datetime
TINY = {
    "products": [  # ids: BREAD 1, SOUP 2, CAN 3, UNKNOWN 4; manufacturers 7 and 8; categories and departments by name
        (BREAD, 8, "BAKERY", "National", "BREAD", "WHITE"),
        (SOUP, 7, "GROCERY", "Private", "SOUP", "TOMATO"),
        (CAN, 8, "GROCERY", "National", "SOUP", "CHICKEN"),
    ],
    "promotions": [(SOUP, 5, "0", "A", week) for week in (14, 15)],
    "transactions": [  # Monday of week 14 is 2017-03-27
        (1, 5, 0, CAN, 1, 1.0, 0.0, 13, AT(2017, 3, 20, 15)),
        (1, 5, 0, BREAD, 1, 1.0, 0.0, 13, AT(2017, 3, 20, 15)),  # the same moment: by product
        (1, 6, 1, SOUP, 1, 1.0, 0.0, 13, AT(2017, 3, 20, 14)),  # an hour earlier, in another store
        (1, 5, 2, UNKNOWN, 1, 1.0, 0.0, 13, AT(2017, 3, 27, 3, 59)),  # Monday in UTC, still Sunday in New York
        (1, 5, 3, SOUP, 0, 0.0, 0.0, 13, AT(2017, 3, 22, 15)),  # no purchase
        (1, 5, 3, SOUP, 1, 0.0, 1.0, 13, AT(2017, 3, 22, 15)),  # no purchase either
        (1, 5, 4, CAN, 3, 9.0, 0.0, 14, AT(2017, 3, 27, 4)),  # midnight in New York: the week of the exposure
        (1, 5, 5, CAN, 1, 3.0, 0.0, 15, AT(2017, 4, 3, 12)),
        (2, 5, 6, BREAD, 1, 3.0, 0.0, 14, AT(2017, 3, 28, 12)),  # a first visit
    ],
}


@pytest.fixture(scope="module")
def tiny_rows(tmp_path_factory, write_source, read_split):
    folder = tmp_path_factory.mktemp("tiny")
    prepare(folder, rates=EVERYTHING, source=write_source(folder / "source", TINY))
    return {(row["household_id"], row["week"]): row for row in read_split(folder, "train")}


def expected_sequences(tables, household, week):
    """The definition, written as loops and sorts."""

    def ids(values):
        return {value: number for number, value in enumerate(sorted(set(values) - {None}), start=1)}

    lines, described = tables["transactions"], {row[0]: row for row in tables["products"]}
    product_ids = ids([line[3] for line in lines] + [row[0] for row in tables["promotions"]])
    sold = [described[product] for product in product_ids if product in described]
    columns = {"past_category": 4, "past_manufacturer": 1, "past_department": 2}
    own = {name: ids(row[column] for row in sold) for name, column in columns.items()}
    monday = datetime.date.fromisocalendar(2016, 52, 1) + datetime.timedelta(weeks=week - 1)
    past = [line for line in lines if line[0] == household and line[7] < week and line[4] > 0 and line[5] > 0]
    expected = {name: [] for name in SEQUENCES}
    for line in sorted(past, key=lambda line: (line[8], line[3]))[-50:]:
        expected["past_product"].append(product_ids[line[3]])
        for name, column in columns.items():
            row = described.get(line[3])
            expected[name].append(0 if row is None or row[column] is None else own[name][row[column]])
        day = line[8].replace(tzinfo=datetime.timezone.utc).astimezone(ZoneInfo("America/New_York")).date()
        expected["past_days"].append((monday - day).days)
    return expected


def test_sequences_of_a_hand_made_source(tiny_rows):
    assert {name: tiny_rows[1, 14][name] for name in SEQUENCES} == {
        "past_product": [2, 1, 3, 4],  # SOUP, BREAD, CAN, UNKNOWN
        "past_category": [2, 1, 2, 0],
        "past_manufacturer": [1, 2, 2, 0],
        "past_department": [2, 1, 2, 0],
        "past_days": [7, 7, 7, 1],
    }


def test_the_newest_purchase_is_appended_at_the_end(tiny_rows):
    assert tiny_rows[1, 15]["past_product"] == [2, 1, 3, 4, 3]
    assert tiny_rows[1, 15]["past_days"] == [14, 14, 14, 8, 7]


def test_a_household_without_a_past_has_empty_lists(tiny_rows):
    assert [tiny_rows[2, 14][name] for name in SEQUENCES] == [[]] * len(SEQUENCES)


def test_the_last_fifty_lines_are_kept_also_within_one_moment(tmp_path, write_source, read_split):
    moment, later = AT(2017, 3, 6, 15), AT(2017, 3, 13, 15)
    tables = {
        "products": [(product, 1, "GROCERY", "National", "SOUP", "TOMATO") for product in range(101, 161)],
        "promotions": [(101, 5, "0", "A", week) for week in (12, 13)],
        "transactions": [
            *((1, 5, 0, product, 1, 1.0, 0.0, 11, moment) for product in range(160, 100, -1)),
            *((1, 5, 1, product, 1, 1.0, 0.0, 12, later) for product in (102, 101)),
            (1, 5, 2, 101, 1, 1.0, 0.0, 13, AT(2017, 3, 21)),
        ],
    }
    prepare(tmp_path, rates=EVERYTHING, source=write_source(tmp_path / "source", tables))
    rows = {row["week"]: row for row in read_split(tmp_path, "train")}
    assert rows[12]["past_product"] == list(range(11, 61))  # 60 products, of which the last 50
    assert rows[12]["past_days"] == [7] * 50
    assert rows[13]["past_product"] == [*range(13, 61), 1, 2]
    assert rows[13]["past_days"] == [14] * 48 + [7] * 2


def test_sequences_equal_the_definition_written_as_loops(everything, random_tables, read_split):
    rows = [row for split in SPLIT_WEEKS for row in read_split(everything[0], split)]
    expected = {key: expected_sequences(random_tables, *key) for key in {(r["household_id"], r["week"]) for r in rows}}
    lengths = {len(lists["past_days"]) for lists in expected.values()}
    assert min(lengths) < 50 == max(lengths)
    for row in rows:
        assert {name: row[name] for name in SEQUENCES} == expected[row["household_id"], row["week"]]
        assert all(1 <= days < DAYS_TABLE_SIZE for days in row["past_days"])
        assert row["past_days"] == sorted(row["past_days"], reverse=True)  # newest last


@pytest.mark.parametrize(
    ("time", "found"),
    [
        (AT(2017, 3, 27, 3, 59), "week 14 at 2017-03-27 03:59:00"),  # still Sunday in New York
        (AT(2017, 4, 3, 4), "week 14 at 2017-04-03 04:00:00"),  # already the next Monday there
        (None, "week 14 at None"),
    ],
)
def test_a_purchase_outside_its_week_is_refused(tmp_path, write_source, time, found):
    tables = {**TINY, "transactions": [*TINY["transactions"], (1, 5, 7, SOUP, 1, 1.0, 0.0, 14, time)]}
    source = write_source(tmp_path / "source", tables)
    with pytest.raises(ValueError, match=f"1 purchases have .* for instance {found}; it must be the time in UTC"):
        prepare(tmp_path / "out", source=source)
    assert not (tmp_path / "out" / "manifest.json").exists()
