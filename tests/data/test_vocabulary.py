"""Vocabularies against counting in Python; files that are none; the whole way through the command and a job."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.data import BatchConverter, Features, SparseFeature, Table
from torchrec_mtl.data import count_values as counting
from torchrec_mtl.data.count_values import build_vocabulary
from torchrec_mtl.data.make_vocabularies import make_vocabularies
from torchrec_mtl.data.vocabulary import Vocabulary, write_vocabulary

SHOPS = ["b", "a", "c", None, "a", "ä", "b", "a"]


def pairs(table):
    return list(zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True))


def by_hand(values, min_count=1, max_size=None):
    """Most frequent first, then in increasing order (of UTF-8, which is the order of code points)."""
    counts = Counter(value for value in values if value is not None)
    return sorted(((v, n) for v, n in counts.items() if n >= min_count), key=lambda each: (-each[1], each[0]))[
        :max_size
    ]


# --- counting


def test_counts_by_hand():
    table = pa.table({"shop": SHOPS})
    assert pairs(build_vocabulary([table], ["shop"])) == [("a", 3), ("b", 2), ("c", 1), ("ä", 1)]
    assert pairs(build_vocabulary([table], ["shop"], min_count=2)) == [("a", 3), ("b", 2)]
    assert pairs(build_vocabulary([table], ["shop"], max_size=3)) == [("a", 3), ("b", 2), ("c", 1)]
    assert pairs(build_vocabulary([table, table], ["shop"], min_count=4, max_size=9)) == [("a", 6), ("b", 4)]


def test_columns_share_a_vocabulary_and_lists_are_flattened():
    table = pa.table({"shop": [7, None, 7], "recent": [[7, 1], None, [1, None, 2]]})
    assert pairs(build_vocabulary([table], ["shop", "recent"])) == [(7, 3), (1, 2), (2, 1)]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.none() | st.text("abä", max_size=2), max_size=40)
    | st.lists(st.none() | st.integers(-3, 3), max_size=40),
    st.integers(1, 3),
    st.none() | st.integers(1, 4),
    st.randoms(use_true_random=False),
    st.data(),
)
def test_counts_do_not_depend_on_chunks_and_order(values, min_count, max_size, random, data):
    kind = pa.string() if any(isinstance(value, str) for value in values) else pa.int64()
    expected = by_hand(values, min_count, max_size)
    random.shuffle(values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    whole = pa.table({"x": pa.array(values, kind)})
    parts = [whole.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    assert pairs(build_vocabulary(parts, ["x"], min_count, max_size)) == expected


def test_counts_are_merged_as_they_come(monkeypatch):
    """So that memory grows with the different values and not with the rows."""
    monkeypatch.setattr(counting, "_PENDING", 10)
    waiting = []

    class Watched(counting.ValueCounts):
        def add(self, column):
            super().add(column)
            waiting.append(sum(table.num_rows for table in self._pending))

    monkeypatch.setattr(counting, "ValueCounts", Watched)
    parts = (pa.table({"x": [i % 7, (i + 1) % 7, 3]}) for i in range(100))
    found = build_vocabulary(parts, ["x"])
    assert dict(pairs(found)) == Counter(v for i in range(100) for v in (i % 7, (i + 1) % 7, 3))
    assert len(waiting) == 100
    assert max(waiting) <= 10 + 7


@pytest.mark.parametrize(
    "column",
    [
        pa.array(SHOPS, pa.large_string()),
        pa.array(SHOPS, pa.string_view()),
        pa.array(SHOPS).cast(pa.binary()),
        pa.array(SHOPS).dictionary_encode(),
        pa.chunked_array([SHOPS[:3], SHOPS[3:]]),
        pa.array([SHOPS[:3], None, SHOPS[3:]]),
        pa.ListArray.from_arrays(pa.array([0, 3, 8], pa.int32()), pa.array(SHOPS).dictionary_encode()),
    ],
    ids=lambda column: str(column.type),
)
def test_every_form_of_strings_counts_alike(column):
    assert pairs(build_vocabulary([pa.table({"shop": column})], ["shop"])) == by_hand(SHOPS)


def test_integers_of_several_widths_count_together():
    parts = [pa.table({"x": pa.array([1, 2], kind)}) for kind in (pa.int8(), pa.uint32(), pa.int64())]
    assert pairs(build_vocabulary(parts, ["x"])) == [(1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("tables", "limits", "text"),
    [
        ([], {}, "A vocabulary needs rows, but found none."),
        ([{"x": [1]}], {"min_count": 0}, "min_count and max_size must be at least 1, but found 0 and None."),
        ([{"x": [1]}], {"max_size": 0}, "min_count and max_size must be at least 1, but found 1 and 0."),
        ([{"x": [0.5]}], {}, "column 'x' must hold integers, strings or lists of these, but has type double."),
        (
            [{"x": [1]}, {"x": ["a"]}],
            {},
            "column 'x' has type string, but its vocabulary holds integers from elsewhere: give the columns "
            "vocabularies of their own, or the files one type.",
        ),
    ],
)
def test_what_cannot_be_counted(tables, limits, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build_vocabulary([pa.table(table) for table in tables], ["x"], **limits)


# --- files and lookups


def written(folder, values, name="shop"):
    """A vocabulary of values whose counts decrease in the order given."""
    table = pa.table({"value": values, "count": np.arange(len(values), 0, -1)})
    write_vocabulary(folder / f"{name}.parquet", table, ["shop"])
    return folder / f"{name}.parquet"


def test_a_file_can_be_read_by_anyone(tmp_path):
    table = build_vocabulary([pa.table({"shop": SHOPS})], ["shop"], min_count=2)
    write_vocabulary(tmp_path / "new" / "v.parquet", table, ["shop"], min_count=2)
    found = pq.read_table(tmp_path / "new" / "v.parquet")
    assert found.to_pydict() == {"value": ["a", "b"], "count": [3, 2], "row": [1, 2]}
    assert b'"min_count": 2' in found.schema.metadata[b"torchrec_mtl.vocabulary"]
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["v.parquet"]


KNOWN = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=50) | st.lists(
    st.text(max_size=12), unique=True, max_size=50
)


@settings(deadline=None, max_examples=100)
@given(KNOWN, st.data())
def test_rows_are_places_from_1_and_0_is_unknown(known, data):
    text = bool(known) and isinstance(known[0], str)
    kind = pa.string() if text else pa.int64()
    other = st.text(max_size=3) if text else st.integers(-(2**63), 2**63 - 1)
    asked = data.draw(st.lists(other | st.sampled_from(known) if known else other, max_size=30))
    vocabulary = Vocabulary(pa.array(known, kind), "test")
    found = vocabulary.rows(pa.array(asked, kind))
    assert found.dtype == np.int64
    assert found.tolist() == [known.index(each) + 1 if each in known else 0 for each in asked]
    assert len(vocabulary) == len(known)


def test_a_large_vocabulary_finds_every_value():
    rng = np.random.default_rng(0)
    values = np.unique(rng.integers(-(2**40), 2**40, 200_000))
    rng.shuffle(values)
    half = len(values) // 2
    found = Vocabulary(pa.array(values[:half]), "test").rows(pa.array(values))
    np.testing.assert_array_equal(found, [*range(1, half + 1), *[0] * (len(values) - half)])


def test_integers_of_other_widths_are_found():
    vocabulary = Vocabulary(pa.array([300, -1, 5]), "test")
    assert vocabulary.rows(pa.array([5, -1, 4], pa.int8())).tolist() == [3, 2, 0]
    assert vocabulary.rows(pa.array([300, 5], pa.uint16())).tolist() == [1, 3]


def test_the_fingerprint_knows_values_and_order():
    prints = {Vocabulary(pa.array(v), "test").fingerprint for v in (["a", "b"], ["b", "a"], ["a"], ["a", "c"], [1, 2])}
    assert len(prints) == 5
    assert Vocabulary(pa.array(["a", "b"], pa.large_string()), "x").fingerprint in prints


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (["a", "b", "a"], "Vocabulary v: 'a' occurs twice."),
        ([5, 7, 5], "Vocabulary v: 5 occurs twice."),
        (["a", None], "Vocabulary v: 1 values are null, and a null has no row."),
    ],
)
def test_values_that_are_no_vocabulary(values, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        Vocabulary(pa.array(values), "v")


def test_two_strings_of_one_hash_are_refused(monkeypatch):
    monkeypatch.setattr("torchrec_mtl.data.vocabulary.hash_values", lambda values: np.full(len(values), 9, np.uint64))
    with pytest.raises(ValueError, match="Vocabulary v: 'a' and 'b' have the same 64-bit hash: remove one"):
        Vocabulary(pa.array(["a", "b"]), "v")


def test_a_file_is_in_memory_once_while_it_stays_the_same(tmp_path):
    path = written(tmp_path, ["a", "b"])
    first = Vocabulary.load(path)
    assert Vocabulary.load(str(path)) is first
    written(tmp_path, ["b", "a", "c"])
    assert Vocabulary.load(path).rows(pa.array(["a", "c"])).tolist() == [2, 3]


def rewritten(path, change, keep_metadata=True):
    table = pq.read_table(path)
    metadata = table.schema.metadata
    pq.write_table(change(table).replace_schema_metadata(metadata if keep_metadata else None), path)


def test_files_that_are_no_vocabulary(tmp_path):
    def refused(path, text):
        with pytest.raises(ValueError, match=re.escape(text)):
            Vocabulary.load(path)

    refused(tmp_path / "v.parquet", f"No vocabulary at '{tmp_path}/v.parquet': torchrec-mtl vocab makes one.")
    path = written(tmp_path, ["a", "b", "c"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    refused(path, f"Cannot read the vocabulary {path}: ")
    path.write_bytes(b"")
    refused(path, f"Cannot read the vocabulary {path}: ")
    path.write_bytes(whole)
    rewritten(path, lambda table: table, keep_metadata=False)
    refused(path, f"{path} is no vocabulary. Found columns ['value', 'count', 'row']; torchrec-mtl vocab makes one.")
    path.write_bytes(whole)
    rewritten(path, lambda table: table.drop_columns("value"))
    refused(path, f"{path} is no vocabulary. Found columns ['count', 'row']")
    path.write_bytes(whole)
    rewritten(path, lambda table: table.slice(1))
    refused(path, f"The vocabulary {path} was changed: its rows are not 1 to 2. Make it again.")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"torchrec_mtl.vocabulary": b'{"version": 2}'}), path)
    refused(path, f"The vocabulary {path} has format version 2, but this torchrec_mtl reads version 1: make it again.")


# --- features


def converter(path, rows=4):
    features = Features([Table("shop", rows, 4)], [SparseFeature("shop", vocabulary=path)])
    return BatchConverter(features, [])


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_feature_looks_its_values_up(tmp_path, dictionary):
    made = converter(written(tmp_path, ["x", "y", "z"]))
    column = pa.array(["y", None, "new", "x", "z"])
    batch = made(pa.record_batch({"shop": column.dictionary_encode() if dictionary else column}), 6)
    assert [bag.tolist() for bag in batch.sparse["shop"].to_dense()] == [[2], [], [0], [1], [3], []]
    lists = pa.array([["z", "new", None], None, ["x"]])
    batch = made(pa.record_batch({"shop": lists}), 3)
    assert [bag.tolist() for bag in batch.sparse["shop"].to_dense()] == [[3, 0], [], [1]]


def test_a_table_needs_a_row_for_each_value_and_one_more(tmp_path):
    path = written(tmp_path, ["x", "y", "z"])
    text = (
        f"Feature 'shop': the vocabulary {path} holds 3 values, and row 0 stands for all others, but table 'shop' has "
        f"3 rows. Set its rows to 4, or make the vocabulary with a larger min_count or a smaller max_size."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        converter(path, rows=3)


@pytest.mark.parametrize(("values", "items", "kind"), [(["x"], "strings", pa.int64()), ([1], "integers", pa.string())])
def test_a_column_must_fit_its_vocabulary(tmp_path, values, items, kind):
    path = written(tmp_path, values)
    made = converter(path)
    assert made.check_type("shop", kind) == (
        f"must hold {items} or lists of {items}, but has type {kind}. Its vocabulary {path} holds {items}: make it "
        f"from this column."
    )
    assert made.check_type("shop", pa.list_(pa.array(values).type)) is None
    assert made.check_bound("shop", 99, "here") is None


# --- the command


def write_days(folder):
    """Two files of small row groups: shops a ×3, b ×2, c ×1 with the recent ones; brands 5 ×3, 7 ×1."""
    days = [
        {"shop": ["b", "a", None], "recent": [["a"], None, []], "brand": [5, 7, 5], "click": [1, 0, 1]},
        {"shop": ["c", "a", "b"], "recent": [[], [None], None], "brand": [None, 5, None], "click": [1, 0, 1]},
    ]
    for i, day in enumerate(days):
        table = pa.table(day).cast(
            pa.schema(
                [("shop", pa.string()), ("recent", pa.list_(pa.string())), ("brand", pa.int32()), ("click", pa.int8())]
            )
        )
        pq.write_table(table, folder / f"day-{i}.parquet", row_group_size=2)
    return str(folder)


COLUMNS = {"shop": ["shop", "recent"], "brand": ["brand"]}


def test_one_pass_makes_every_vocabulary(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    found = make_vocabularies([write_days(tmp_path / "train")], COLUMNS, tmp_path / "out", min_count=2)
    assert pq.read_table(tmp_path / "out/shop.parquet").to_pydict() == {
        "value": ["a", "b"], "count": [3, 2], "row": [1, 2]
    }  # fmt: skip
    assert pq.read_table(tmp_path / "out/brand.parquet").to_pydict() == {"value": [5], "count": [3], "row": [1]}
    assert (found["shop"].distinct, found["shop"].kept, found["shop"].rows) == (3, 2, 3)
    assert found["shop"].share == pytest.approx(5 / 6)
    assert found["brand"].share == pytest.approx(3 / 4)
    printed = capsys.readouterr().out
    assert "83.33%" in printed
    assert "75.00%" in printed


def test_existing_files_are_replaced_only_on_demand(tmp_path):
    (tmp_path / "train").mkdir()
    rows, out = [write_days(tmp_path / "train")], tmp_path / "out"
    make_vocabularies(rows, {"brand": ["brand"]}, out)
    text = f"['{out}/brand.parquet'] exist already, and models trained with them need them as they are. Give another"
    with pytest.raises(ValueError, match=re.escape(text)):
        make_vocabularies(rows, COLUMNS, out)
    assert [each.name for each in out.iterdir()] == ["brand.parquet"]
    make_vocabularies(rows, COLUMNS, out, min_count=2, overwrite=True)
    assert len(Vocabulary.load(out / "brand.parquet")) == 1


@pytest.mark.parametrize(
    ("columns", "limits", "text"),
    [
        ({"shop": ["shop", "resent"]}, {}, "day-0.parquet: column 'resent' is missing. Found ['shop', 'recent', "
         "'brand', 'click']; did you mean 'recent'?"),
        ({"all": ["shop", "brand"]}, {}, "day-0.parquet: column 'brand' has type int32, but its vocabulary holds "
         "strings from elsewhere"),
        ({"shop": []}, {}, "Each vocabulary needs a column, for instance {shop: [shop]}, but found {'shop': []}."),
        ({}, {}, "Each vocabulary needs a column"),
        ({"shop": ["shop"]}, {"min_count": 3}, "Vocabulary 'shop': no value occurs 3 times (the most frequent one "
         "occurs 2 times). Set a smaller min_count."),
        ({"shop": ["shop"]}, {"max_size": 0}, "min_count and max_size must be at least 1, but found 1 and 0."),
    ],
)  # fmt: skip
def test_what_the_command_refuses(tmp_path, columns, limits, text):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=re.escape(text)):
        make_vocabularies([write_days(tmp_path / "train")], columns, tmp_path / "out", **limits)
    assert not (tmp_path / "out").exists()


def test_files_of_different_types_are_refused_before_the_pass(tmp_path):
    write_days(tmp_path)
    pq.write_table(pa.table({"brand": ["x"]}), tmp_path / "day-2.parquet")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/day-2.parquet: column 'brand' has type string")):
        make_vocabularies([str(tmp_path)], {"brand": ["brand"]}, tmp_path / "out")


def test_a_corrupt_file_is_named_and_nothing_written(tmp_path):
    write_days(tmp_path)
    (tmp_path / "day-1.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {tmp_path}/day-1.parquet as Parquet: ")):
        make_vocabularies([str(tmp_path)], COLUMNS, tmp_path / "out")
    assert not (tmp_path / "out").exists()
