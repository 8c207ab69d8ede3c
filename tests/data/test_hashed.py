"""The hash against SplitMix64 in whole Python numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.data.columns import hashed

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64 adds it to the state before each output


def finalised(x):
    """The finaliser of SplitMix64 in Python's unbounded integers."""
    x &= MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


# the generator's first outputs from seed 1234567, as published (Rosetta Code, Pseudo-random numbers/Splitmix64)
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_the_reference_is_splitmix64():
    assert [finalised(1234567 + (i + 1) * GOLDEN) for i in range(5)] == PUBLISHED


@pytest.mark.parametrize("rows", [1, 7, 1000, 1_000_003, 2**31 - 1, 2**62])
def test_the_hash_gives_the_published_numbers(rows):
    states = np.array([(1234567 + (i + 1) * GOLDEN) & MASK for i in range(5)], np.uint64).view(np.int64)
    assert hashed(states, rows).tolist() == [number % rows for number in PUBLISHED]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.integers(1, 2**62))
def test_the_hash_equals_the_reference(ids, rows):
    found = hashed(np.array(ids, np.int64), rows)
    assert found.dtype == np.int64
    assert found.tolist() == [finalised(each) % rows for each in ids]  # hence also within [0, rows)


@pytest.mark.parametrize("step", [1, 64, 1000, 2**32])
def test_regular_ids_spread_evenly(step):
    """Chi-square of 100,000 ids over 100 rows: mean 99, standard deviation 14; 170 is five deviations off."""
    counts = np.bincount(hashed(np.arange(100_000) * step, 100), minlength=100)
    assert len(counts) == 100
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 170
