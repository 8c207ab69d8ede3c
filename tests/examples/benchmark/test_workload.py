"""Ids, rows and sizes of the workload."""

import numpy as np
import pytest

from examples.benchmark.workload import Workload, make_batches, make_rows
from examples.benchmark.zipf import zipf
from tests.examples.benchmark.tiny import tiny


@pytest.mark.parametrize(("s", "rows"), [(1.05, 1), (1.05, 6), (0.7, 40), (2.0, 5)])
def test_zipf_has_the_exact_frequencies(s, rows):
    draws = 200_000
    ids = zipf(s, rows, draws, np.random.default_rng(0))
    weights = np.arange(1, rows + 1) ** -s
    expected = draws * weights / weights.sum()
    found = np.bincount(ids, minlength=rows)
    assert len(found) == rows
    # Pearson's statistic has mean rows - 1 and variance 2 (rows - 1)
    assert ((found - expected) ** 2 / expected).sum() < rows - 1 + 5 * np.sqrt(2 * rows)


def test_zipf_reaches_the_end_of_a_large_table_and_no_further():
    ids = zipf(1.05, 10**8, 500_000, np.random.default_rng(0))
    assert ids.min() == 0
    assert 10**7 < ids.max() < 10**8


@pytest.mark.parametrize(("s", "rows"), [(1.0, 5), (-1.0, 5), (1.05, 0)])
def test_zipf_refuses_what_it_cannot_draw(s, rows):
    with pytest.raises(ValueError, match=f"other than 1, and rows, but found {s} and {rows}"):
        zipf(s, rows, 1, np.random.default_rng(0))


def test_sizes_of_w():
    w = Workload()
    assert len(w.single) == 26
    assert w.rows == 4 * 1_000_000 + 6 * 100_000 + 16 * 1000 + 4 * 100_000
    assert w.width == 13 + 30 * 16
    assert w.table_bytes == 5_016_000 * 16 * 4
    assert w.name == "MMoE, dimension 16"


def test_rows_have_the_declared_shapes():
    workload = tiny(tasks=3)
    rows = make_rows(workload, 2000, np.random.default_rng(1))
    assert {name: (ids.shape, ids.max() < workload.tables[name]) for name, ids in rows.ids.items()} == {
        "id_0": ((2000,), True),
        "id_1": ((2000,), True),
    }
    values, lengths = rows.bags["bag_0"]
    assert values.shape == (lengths.sum(),)
    assert (lengths.min(), lengths.max()) == (0, 6)
    assert lengths.mean() == pytest.approx(3, abs=0.2)  # uniform on 0…6: deviation 2, of the mean 0.045
    assert rows.dense.shape == (2000, 3)
    assert (np.diff(rows.labels, axis=1) <= 0).all(), "each label implies the one before it"


def test_batches_are_reproducible_and_differ_between_ranks():
    first, again, other = (make_batches(tiny(), 2, rank)[1].dense for rank in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_a_workload_survives_json():
    workload = tiny(network="esmm")
    assert Workload.parse({**vars(workload), "ids": [50, 7], "bags": [30]}) == workload


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match=r"network must be one of \['mmoe', 'esmm'\], but found 'ple'"):
        tiny(network="ple")
    with pytest.raises(ValueError, match="ESMM has two towers, CTR and CVR, but found tasks=3"):
        tiny(network="esmm", tasks=3)
