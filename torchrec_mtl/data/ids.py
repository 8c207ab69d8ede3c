"""The ways from a feature's values to rows of its table, one class a way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa

from torchrec_mtl.data.columns import integers, is_text, item_type
from torchrec_mtl.data.feature import SparseFeature
from torchrec_mtl.data.hashing import hash_values, row_of_hash
from torchrec_mtl.data.table import Table
from torchrec_mtl.data.vocabulary import Vocabulary

_TEXT_NEEDS = (
    " Declare the feature with out_of_range: hash, or with a vocabulary (torchrec-mtl vocab makes one), or number the "
    "strings when the data are prepared."
)
_FLOATS_NEED = " Declare the feature with boundaries, or as a dense feature."


class IdMapping(ABC):
    """Maps values ``[V]`` without nulls, perhaps dictionary-encoded, to int64 rows of a table ``[V]``.

    Args:
        feature: The feature.
        table: Its table.
    """

    expected = "integers or lists of integers"

    def __init__(self, feature: SparseFeature, table: Table) -> None:
        self.feature = feature
        self.table = table

    def check_type(self, kind: pa.DataType) -> str | None:
        """What is wrong with a column's type, as the end of a sentence; ``None`` if nothing is."""
        item = item_type(kind)
        if self.accepts(item):
            return None
        return f"must hold {self.expected}, but has type {kind}.{self.way_out(item)}"

    def accepts(self, item: pa.DataType) -> bool:
        """Whether it maps values of a type."""
        return pa.types.is_integer(item)

    def way_out(self, item: pa.DataType) -> str:
        """What to do about values of a type that it does not map."""
        return ""

    def check_bound(self, bound: int, where: str) -> str | None:
        """What is wrong if a column's smallest or largest value is ``bound``; ``None`` if nothing is."""
        return None

    def __call__(self, values: pa.Array) -> np.ndarray:
        """Rows of the values; a dictionary's are mapped once each."""
        if not pa.types.is_dictionary(values.type):
            return self.rows(values)
        if len(values.dictionary) > len(values):  # a batch may be a slice under a whole file's dictionary
            return self.rows(values.dictionary_decode())
        return self.rows(values.dictionary)[values.indices.to_numpy(zero_copy_only=False)]

    @abstractmethod
    def rows(self, values: pa.Array) -> np.ndarray:
        """Rows of values that are not dictionary-encoded."""


class AsIs(IdMapping):
    """An id is the number of its row; one outside the table is an error."""

    def way_out(self, item: pa.DataType) -> str:
        """Strings can be hashed or looked up, numbers with fractions put into buckets."""
        if is_text(item):
            return _TEXT_NEEDS
        return _FLOATS_NEED if pa.types.is_floating(item) else ""

    def check_bound(self, bound: int, where: str) -> str | None:
        """An id outside the table is an error."""
        inside = 0 <= bound < self.table.rows
        return None if inside else out_of_range_text(self.feature, self.table.rows, bound, where)

    def __call__(self, values: pa.Array) -> np.ndarray:
        """Rows of the values; a dictionary may hold ids that no row has, so it is decoded."""
        return self.rows(values.dictionary_decode() if pa.types.is_dictionary(values.type) else values)

    def rows(self, values: pa.Array) -> np.ndarray:
        """The ids themselves."""
        ids = integers(values)
        if len(ids) and (ids.min() < 0 or ids.max() >= self.table.rows):
            wrong = ids[(ids < 0) | (ids >= self.table.rows)]
            found = (wrong.view(np.uint64) if pa.types.is_uint64(values.type) else wrong)[0]
            where = f"{len(wrong)} such ids in one batch"
            raise ValueError(out_of_range_text(self.feature, self.table.rows, found, where))
        return ids


class AsIsOrZero(AsIs):
    """An id is the number of its row; one outside the table has row 0, the out-of-vocabulary row."""

    def check_bound(self, bound: int, where: str) -> str | None:
        """Every id has a row."""
        return None

    def rows(self, values: pa.Array) -> np.ndarray:
        """The ids themselves, or 0."""
        ids = integers(values)
        return np.where((ids < 0) | (ids >= self.table.rows), 0, ids)


class Hashed(IdMapping):
    """The row is the value's hash (:mod:`torchrec_mtl.data.hashing`) modulo the table's rows."""

    expected = "integers, strings or lists of these"

    def accepts(self, item: pa.DataType) -> bool:
        """Integers and strings."""
        return pa.types.is_integer(item) or is_text(item)

    def rows(self, values: pa.Array) -> np.ndarray:
        """Every value is hashed, also one that would be a row."""
        return row_of_hash(hash_values(values), self.table.rows)


class Managed(Hashed):
    """The value's hash modulo 2**63 - 1, for a table with managed collision, which maps it to a row.

    Also integers are hashed: TorchRec divides the range of ids among the ranks, and hashes lie evenly in it. No hash is
    2**63 - 1, by which TorchRec marks a free row. Two of n values share a hash with a chance of about n**2 / 2**64.
    """

    def rows(self, values: pa.Array) -> np.ndarray:
        """Ids that are no rows yet."""
        return row_of_hash(hash_values(values), 2**63 - 1)


class Buckets(IdMapping):
    """The row is the number of boundaries that are not above the value; both are compared as float64."""

    expected = "numbers or lists of numbers"

    def accepts(self, item: pa.DataType) -> bool:
        """Integers and floats."""
        return pa.types.is_integer(item) or pa.types.is_floating(item)

    def rows(self, values: pa.Array) -> np.ndarray:
        """By binary search."""
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        return np.searchsorted(np.asarray(self.feature.boundaries, np.float64), numbers, side="right")


class Known(IdMapping):
    """The row is the value's place in a vocabulary, from 1; row 0 stands for every unknown value.

    Raises:
        ValueError: If the table has too few rows for the vocabulary.
    """

    def __init__(self, feature: SparseFeature, table: Table) -> None:
        super().__init__(feature, table)
        assert feature.vocabulary is not None
        self.vocabulary = Vocabulary.load(feature.vocabulary)
        self.items = "strings" if self.vocabulary.text else "integers"
        self.expected = f"{self.items} or lists of {self.items}"
        needed = len(self.vocabulary) + 1
        if table.rows < needed:
            raise ValueError(
                f"Feature '{feature.name}': the vocabulary {feature.vocabulary} holds {needed - 1} values, and row 0 "
                f"stands for all others, but table '{table.name}' has {table.rows} rows. Set its rows to {needed}, or "
                f"make the vocabulary with a larger min_count or a smaller max_size."
            )

    def accepts(self, item: pa.DataType) -> bool:
        """What the vocabulary holds: integers or strings."""
        return is_text(item) if self.vocabulary.text else pa.types.is_integer(item)

    def way_out(self, item: pa.DataType) -> str:
        """The vocabulary must come from the same column."""
        return f" Its vocabulary {self.feature.vocabulary} holds {self.items}: make it from this column."

    def rows(self, values: pa.Array) -> np.ndarray:
        """By one lookup of all values."""
        return self.vocabulary.rows(values)


_OUT_OF_RANGE: dict[str, Callable[[SparseFeature, Table], IdMapping]] = {
    "error": AsIs,
    "hash": Hashed,
    "oov": AsIsOrZero,
}


def mapping_of(feature: SparseFeature, table: Table) -> IdMapping:
    """The way that a feature declares.

    Raises:
        ValueError: If its vocabulary cannot be read or does not fit the table.
    """
    if table.managed_collision is not None:
        return Managed(feature, table)
    if feature.vocabulary is not None:
        return Known(feature, table)
    if feature.boundaries is not None:
        return Buckets(feature, table)
    return _OUT_OF_RANGE[feature.out_of_range](feature, table)


def vocabulary_fingerprints(features: Iterable[SparseFeature]) -> dict[str, str]:
    """``{feature: fingerprint of its vocabulary}`` of those that have one: what trained rows stand for.

    Raises:
        ValueError: If a vocabulary cannot be read.
    """
    return {
        feature.name: Vocabulary.load(feature.vocabulary).fingerprint
        for feature in features
        if feature.vocabulary is not None
    }


def out_of_range_text(feature: SparseFeature, rows: int, found: int, where: str) -> str:
    """Error text for an id outside its table."""
    return (
        f"Feature '{feature.name}': id {found} lies outside table '{feature.table_name}' with rows [0, {rows}) "
        f"({where}). Give the table more rows, correct the ids, or declare the feature with out_of_range: hash "
        f"(or oov: all such ids share row 0)."
    )
