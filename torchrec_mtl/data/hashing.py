r"""The project's 64-bit hash of integers and strings: the same on every machine and in every version.

Trained tables depend on it, so it never changes. Let :math:`m` be the finaliser of SplitMix64 (Steele et al., OOPSLA
2014), modulo :math:`2^{64}`, ``>>`` a logical shift:

.. code-block:: none

    m(x):  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
           x = (x ^ (x >> 27)) * 0x94D049BB133111EB
           return x ^ (x >> 31)

* An **integer** :math:`x`, in two's complement, has the hash :math:`m(x)`.
* A **string** of :math:`n` UTF-8 bytes (as they stand: no normalisation) is cut into words :math:`w_1, w_2, \ldots`
  of 8 bytes, little-endian, the last one padded with zero bytes. Its hash is :math:`h_{\lceil n/8 \rceil}`, where
  :math:`h_0 = m(n)` and :math:`h_j = m(h_{j-1} \oplus w_j)`. Hence the empty string has the hash 0.
* The **row** in a table of :math:`R` rows is the hash modulo :math:`R`.

It is no protection against someone who chooses ids so that they collide.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_mtl.data.columns import integers, is_text

_WORD = np.dtype("<u8")  # little-endian on any host
_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # keeps the first n bytes of a word


def hashed(ids: np.ndarray, rows: int) -> np.ndarray:
    """Integers ``[V]`` to table rows ``[V]`` int64: their hash modulo ``rows``."""
    return row_of_hash(mix(ids.astype(np.uint64)), rows)


def row_of_hash(hashes: np.ndarray, rows: int) -> np.ndarray:
    """64-bit hashes ``[V]`` to table rows ``[V]`` int64."""
    return (hashes % np.uint64(rows)).astype(np.int64)


def hash_values(values: pa.Array) -> np.ndarray:
    """Hashes of integers or strings ``[V]``, without nulls, as uint64 ``[V]``."""
    return hash_strings(values) if is_text(values.type) else mix(integers(values).astype(np.uint64))


def hash_strings(values: pa.Array) -> np.ndarray:
    """Hashes of strings (or bytes) ``[V]`` as uint64 ``[V]``; a null is hashed as the empty string.

    Works on Arrow's own buffers, word by word over all strings that are long enough: no loop over rows.
    """
    start, length, words = _words(values)
    hashes = mix(length.astype(np.uint64))
    active = np.flatnonzero(length)
    start, length = start[active], length[active]
    while len(active):
        word = words[start] & _LOW_BYTES[np.minimum(length, 8)]
        hashes[active] = mix(hashes[active] ^ word)
        longer = length > 8
        active, start, length = active[longer], start[longer] + 8, length[longer] - 8
    return hashes


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a bijection of 64-bit numbers; uint64 in and out."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _words(values: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each string starts ``[V]``, how long it is ``[V]``, and the 8-byte word that starts at each byte."""
    large = pc.cast(values, pa.large_binary())  # 64-bit offsets; the bytes are not copied, except from views
    if large.null_count:
        large = large.fill_null(b"")
    if not len(large):
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0, _WORD)
    _, offsets, data = large.buffers()
    ends = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
    padded = np.zeros(ends[-1] - ends[0] + 8, np.uint8)  # reading a whole word at the last byte stays inside
    if len(padded) > 8:
        padded[:-8] = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return ends[:-1] - ends[0], np.diff(ends), np.ndarray((len(padded) - 7,), _WORD, padded.data, strides=(1,))
