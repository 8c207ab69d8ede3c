"""Growth: its exponent, and where a curve stops."""

import pytest

from examples.benchmark import curves
from examples.benchmark.curves import available_memory, exponent, measure_curves, upper_half
from examples.benchmark.measure import Effort
from examples.benchmark.plots import draw_curves, draw_throughput
from examples.benchmark.processes import Setup
from tests.examples.benchmark.tiny import tiny


@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0, 1.5])
def test_the_exponent_of_a_power_law_is_its_power(power):
    x = [1, 10, 100, 3000]
    assert exponent(x, [3 * value**power for value in x]) == pytest.approx(power, abs=1e-12)


def test_the_upper_half_tells_the_slope_at_the_end():
    x = [1, 10, 100, 1000, 10_000]
    y = [7, 7, 10, 100, 1000]  # flat, then linear
    assert list(upper_half(x)) == [100, 1000, 10_000]
    assert exponent(upper_half(x), upper_half(y)) == pytest.approx(1)
    assert 0 < exponent(x, y) < 1
    assert list(upper_half([1, 2])) == [1, 2]


def test_one_point_has_no_exponent():
    with pytest.raises(ValueError, match="at least two points, but found 1"):
        exponent([1], [1])


def test_available_memory_is_read_from_linux(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   3 kB\n")
    assert available_memory(tmp_path / "meminfo") == 3072
    (tmp_path / "old").write_text("MemTotal: 9 kB\n")
    with pytest.raises(ValueError, match="has no line 'MemAvailable:'"):
        available_memory(tmp_path / "old")


class Fake:
    """A step takes a second for each thousand rows of the tables."""

    def __init__(self, setup):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def build(self, workload):
        self.workload = workload

    def run(self, batches):
        return batches * self.workload.rows / 1000


def test_a_curve_stops_where_the_memory_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(curves, "Processes", Fake)
    monkeypatch.setattr(curves, "FACTORS", {"table rows": (lambda n: tiny(ids=(n,), bags=()), (1000, 4000, 2**24))})
    monkeypatch.setattr(curves, "available_memory", lambda: 2**30)
    told = []
    found = measure_curves(Setup("ours", ""), Effort(rounds=1), told.append)
    curve = found["table rows"]
    assert told == ["table rows = 1,000", "table rows = 4,000", "table rows = 16,777,216"]
    assert curve["x"] == [1000, 4000]
    assert curve["ms_per_step"] == pytest.approx([1000, 4000])
    assert curve["samples_per_second"] == pytest.approx([32, 8])
    assert curve["exponent"] == pytest.approx(1)
    # 2^24 rows × (16 + 1) × 4 bytes, of 0.6 GiB
    assert curve["stopped"] == "16,777,216 would take 1.1 GiB of 0.6 GiB"
    quick = measure_curves(Setup("ours", ""), Effort(rounds=1), told.append, most=2)
    assert quick["table rows"]["x"] == [1000, 4000]
    assert quick["table rows"]["stopped"] is None
    (path,) = draw_curves(found, tmp_path)
    assert path.name == "curve_table_rows.png"
    assert path.stat().st_size > 1000


def test_pictures_need_a_measured_pair_only(tmp_path):
    spread = {"median": 1.0, "min": 0.9, "max": 1.2}
    pairs = [
        {"workload": "w", "first": "a", "second": "b", "ratio": spread},
        {"workload": "w", "first": "a", "second": "c", "not_measured": "absent"},
    ]
    assert draw_throughput(pairs, tmp_path).stat().st_size > 1000
