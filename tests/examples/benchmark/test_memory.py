"""Peaks with one large table, and the time of an import."""

import pytest

from examples.benchmark.memory import measure_import, measure_memory
from examples.benchmark.memory_stage import status

MIB = 2**20


def test_memory_is_read_from_linux(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    70 kB\nVmRSS:\t    50 kB\n")
    assert status(tmp_path / "status") == {"VmHWM": 70, "VmRSS": 50}


@pytest.mark.slow
def test_start_save_and_load_are_measured(tmp_path):
    told = []
    found = measure_memory(2**18, tmp_path / "checkpoint", told.append)
    assert found["tables"] == 4 * 64 * (2**18 + 1000)
    assert found["stages"].keys() == {"start", "save", "load"}
    for stage in found["stages"].values():
        # no stage can do without the table itself; small parts count beside 64 MiB
        assert found["imports"] + 0.9 * found["tables"] < stage["peak"] < found["imports"] + 1000 * MIB
        assert stage["copies"] > 0.9
    assert not (tmp_path / "checkpoint").exists(), "the checkpoint is removed"
    assert told[0].startswith("save a table of 0.06 GiB")


@pytest.mark.slow
def test_the_import_takes_time():
    found = measure_import(1, lambda text: None)
    assert 0 < found["min"] <= found["median"] <= found["max"] < 60
