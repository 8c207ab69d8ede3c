"""Vocabularies: which values of some columns have a row of their own, kept as Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_mtl.data.columns import is_text
from torchrec_mtl.data.files import explained
from torchrec_mtl.data.hashing import hash_values, mix

VERSION = 1
_KEY = b"torchrec_mtl.vocabulary"
_MAKE_ONE = "torchrec-mtl vocab makes one"
_loaded: WeakValueDictionary[tuple[str, int, int], Vocabulary] = WeakValueDictionary()


def write_vocabulary(
    path: Path, counts: pa.Table, columns: Sequence[str], min_count: int = 1, max_size: int | None = None
) -> None:
    """Writes a vocabulary: value, count and row (1 to n, in the order of ``counts``), or nothing if it fails.

    Args:
        path: File to write.
        counts: Kept values and their counts, from :func:`~torchrec_mtl.data.count_values.build_vocabulary`.
        columns: Columns that were counted; kept as metadata, like the rest.
        min_count: Threshold that was applied.
        max_size: Limit that was applied.
    """
    about = {"version": VERSION, "columns": list(columns), "min_count": min_count, "max_size": max_size}
    table = counts.append_column("row", pa.array(np.arange(1, counts.num_rows + 1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(about).encode()}), partial)
    partial.replace(path)


class Vocabulary:
    """Values that have a row: the i-th has row i, from 1; every other value has row 0, the out-of-vocabulary row.

    Values are found by their 64-bit hash (:mod:`torchrec_mtl.data.hashing`). Integers have different ones; the chance
    that an unknown string is taken for a known one is the number of known ones over :math:`2^{64}`.

    Args:
        values: Different integers or strings without null, ``[n]``.
        name: What errors call it.

    Raises:
        ValueError: If a value is null or occurs twice, or two strings have the same hash.
    """

    def __init__(self, values: pa.Array, name: str) -> None:
        if values.null_count:
            raise ValueError(f"Vocabulary {name}: {values.null_count} values are null, and a null has no row.")
        self.text = is_text(values.type)
        keys = hash_values(values)
        order = np.argsort(keys)
        keys = keys[order]
        if twice := np.flatnonzero(keys[1:] == keys[:-1]).tolist():
            pair = [values[int(order[twice[0] + i])].as_py() for i in range(2)]
            what = "occurs twice" if pair[0] == pair[1] else f"and {pair[1]!r} have the same 64-bit hash: remove one"
            raise ValueError(f"Vocabulary {name}: {pair[0]!r} {what}.")
        bits = max(1, len(keys).bit_length())
        self._shift = np.uint64(64 - bits)
        self._first = np.searchsorted(keys, np.arange(2**bits, dtype=np.uint64) << self._shift)
        self._keys = np.append(keys, np.uint64(2**64 - 1))  # ends every search
        self._rows = np.append(order + 1, 0)

    def __len__(self) -> int:
        return len(self._keys) - 1

    def rows(self, values: pa.Array) -> np.ndarray:
        """Rows of integers or strings without nulls ``[V]``; 0 for unknown ones.

        Hashes are even, so among the n sorted ones a value's own stands, on average, less than one place behind the
        first with the same leading log2(n) bits: several times faster than a binary search.
        """
        keys = hash_values(values)
        place = self._first[keys >> self._shift]
        behind = np.flatnonzero(self._keys[place] < keys)
        while len(behind):
            place[behind] += 1
            behind = behind[self._keys[place[behind]] < keys[behind]]
        return np.where(self._keys[place] == keys, self._rows[place], 0)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any value or row: tells whether a checkpoint's rows still hold."""
        pairs = mix(self._keys ^ mix(self._rows.astype(np.uint64)))
        return f"{int(pairs.sum(dtype=np.uint64)):016x}"

    @staticmethod
    def load(path: str | Path) -> Vocabulary:
        """Reads a file that ``torchrec-mtl vocab`` wrote; features that share a file share the memory.

        Raises:
            ValueError: If there is no such file, it cannot be read, it is no vocabulary, or its content is not whole.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"No vocabulary at '{path}': {_MAKE_ONE}.")
        status = path.stat()
        key = (str(path.resolve()), status.st_mtime_ns, status.st_size)
        found = _loaded.get(key)
        if found is None:
            found = _loaded[key] = Vocabulary(_read(path), str(path))
        return found


def _read(path: Path) -> pa.Array:
    with explained(f"the vocabulary {path}"), pq.ParquetFile(path) as file:
        table = file.read()
    about: dict[str, Any] = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
    if "version" not in about or not {"value", "row"} <= {*table.schema.names}:
        raise ValueError(f"{path} is no vocabulary. Found columns {table.schema.names}; {_MAKE_ONE}.")
    if about["version"] != VERSION:
        raise ValueError(
            f"The vocabulary {path} has format version {about['version']}, but this torchrec_mtl reads version "
            f"{VERSION}: make it again."
        )
    if not np.array_equal(table["row"].to_numpy(), np.arange(1, table.num_rows + 1)):
        raise ValueError(f"The vocabulary {path} was changed: its rows are not 1 to {table.num_rows}. Make it again.")
    return table["value"].combine_chunks()
