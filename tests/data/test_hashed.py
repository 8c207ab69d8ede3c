"""The hashes against SplitMix64 in whole Python numbers, and their definition written out over bytes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.data.hashing import hash_strings, hash_values, hashed

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


def hash_of_text(text):
    """The definition, byte by byte: the length is mixed first, then each zero-padded word of eight bytes."""
    content = text if isinstance(text, bytes) else text.encode()
    found = finalised(len(content))
    for start in range(0, len(content), 8):
        word = sum(byte << 8 * i for i, byte in enumerate(content[start : start + 8]))
        found = finalised(found ^ word)
    return found


STRINGS = st.text(max_size=30) | st.text("ab\0", max_size=26)  # the latter: prefixes of each other, embedded zeros
KINDS = [pa.string(), pa.large_string(), pa.string_view()]


def test_hashes_are_kept():
    """Worked out by the reference above; trained tables depend on them, so a change here is a breaking one."""
    known = {
        "": 0,
        "a": 6754272901643539897,
        "shop_17": 11269515829189967184,
        "12345678": 7195662220055126216,
        "household 1228": 2245672430610445568,
        "Straße": 3574244749786337789,
        "\0": 8841707400507832957,
    }
    assert [hash_of_text(text) for text in known] == list(known.values())
    assert hash_strings(pa.array(list(known))).tolist() == list(known.values())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(deadline=None, max_examples=100)
@given(st.lists(STRINGS, max_size=20), st.data())
def test_strings_hash_as_defined(kind, rows, data):
    start = data.draw(st.integers(0, len(rows)))
    column = pa.array(rows, kind).slice(start)  # a slice shares its parent's buffers
    found = hash_strings(column)
    assert found.dtype == np.uint64
    assert found.tolist() == [hash_of_text(each) for each in rows[start:]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.none() | st.binary(max_size=20), max_size=12), st.booleans())
def test_bytes_hash_like_strings_and_null_like_the_empty_one(rows, large):
    column = pa.array(rows, pa.large_binary() if large else pa.binary())
    assert hash_strings(column).tolist() == [hash_of_text(each or b"") for each in rows]


def test_what_stands_under_a_null_is_not_hashed():
    """A mask may hide a string whose bytes are still in the buffer."""
    buffers = pa.array(["secret", "b"]).buffers()
    hidden = pa.Array.from_buffers(pa.string(), 2, [pa.py_buffer(b"\x02"), *buffers[1:]])
    assert hidden.to_pylist() == [None, "b"]
    assert hash_strings(hidden).tolist() == [hash_of_text(""), hash_of_text("b")]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 1000])
def test_a_string_at_the_end_of_its_buffer(length):
    """The last word must not read what stands behind, nor beyond the buffer."""
    rows = ["x" * length, "y" * 20, "z" * length]
    assert hash_strings(pa.array(rows)).tolist() == [hash_of_text(each) for each in rows]
    assert hash_strings(pa.array(rows).slice(0, 1)).tolist() == [hash_of_text(rows[0])]


def test_similar_strings_have_different_hashes():
    rows = ["", "\0", "\0\0", "\0" * 8, "\0" * 9, "a", "a\0", "b", "ab", "ba", "a" * 8, "a" * 9, "ä", "a\u0308"]
    assert len(set(hash_strings(pa.array(rows)).tolist())) == len(rows)


@pytest.mark.parametrize("form", ["item {}", "{:032x}", "https://www.example.com/{}/index.html", "{}"])
def test_regular_strings_spread_evenly(form):
    """Chi-square as for integers: mean 99, standard deviation 14; 170 is five deviations off."""
    hashes = hash_strings(pa.array([form.format(i) for i in range(100_000)]))
    counts = np.bincount((hashes % np.uint64(100)).astype(np.int64), minlength=100)
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 170


def test_every_bit_of_a_string_moves_half_of_the_hash():
    """Of 64 bits 32 flip on average; over 20 × 160 flips the mean has a standard deviation of 0.07."""
    rng = np.random.default_rng(0)
    flips = []
    for content in [rng.bytes(20) for _ in range(20)]:
        number = int.from_bytes(content, "little")
        others = [(number ^ 1 << bit).to_bytes(20, "little") for bit in range(160)]
        found = hash_strings(pa.array([content, *others], pa.binary())).tolist()
        flips += [(found[0] ^ other).bit_count() for other in found[1:]]
    assert abs(np.mean(flips) - 32) < 0.5
    assert min(flips) > 8


def test_values_of_both_kinds():
    assert hash_values(pa.array(["ab"])).tolist() == [hash_of_text("ab")]
    assert hash_values(pa.array([-1], pa.int8())).tolist() == [finalised(-1)]
