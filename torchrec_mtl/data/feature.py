"""Features of one column each, as they are declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class SparseFeature:
    """A column of ids: one value a row, or a list of values (a bag). A null or NaN is no id: an empty bag.

    By default an id is an integer, the number of its row. Hashing and vocabularies take integers and strings,
    boundaries take numbers; all take dictionary-encoded columns.

    Args:
        name: Name of the feature, and of the column unless that is given.
        table: Table that holds the embeddings; by default the table of the feature's own name. Several features may
            share one.
        out_of_range: What to do with an id outside ``[0, rows)``: "error" names it; "oov" gives it row 0, which is then
            the out-of-vocabulary row; "hash" maps **every** value of this feature to a row by a fixed 64-bit hash
            (:mod:`torchrec_mtl.data.hashing`), so that large ids and strings spread evenly.
        boundaries: Makes numbers into buckets: the row is the number of boundaries ``<= value``, compared as float64;
            the table needs one row more than there are boundaries.
        vocabulary: Parquet file from ``torchrec-mtl vocab``: its n values have rows 1 to n, and every other value has
            row 0, the out-of-vocabulary row; the table needs n + 1 rows.
        column: Column that is read, where it has another name: a column may be read by several features.

    Raises:
        ValueError: If ``out_of_range`` is unknown, boundaries do not increase or are not finite, or more than one of
            the three is given.
    """

    name: str
    table: str | None = None
    out_of_range: Literal["error", "hash", "oov"] = "error"
    boundaries: Sequence[float] | None = None
    vocabulary: str | Path | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if self.out_of_range not in ("error", "hash", "oov"):
            raise ValueError(
                f"Feature '{self.name}': out_of_range must be 'error', 'hash' or 'oov', but found "
                f"'{self.out_of_range}'."
            )
        given = [name for name in ("boundaries", "vocabulary") if getattr(self, name) is not None]
        given += [f"out_of_range: {self.out_of_range}"] if self.out_of_range != "error" else []
        if len(given) > 1:
            raise ValueError(
                f"Feature '{self.name}': {' and '.join(given)} are different ways from values to rows; give one."
            )
        if self.boundaries is not None:
            self._check_boundaries(list(self.boundaries))

    def _check_boundaries(self, boundaries: list[float]) -> None:
        increasing = all(low < high for low, high in pairwise(boundaries))
        if not (boundaries and increasing and all(map(isfinite, boundaries))):
            raise ValueError(
                f"Feature '{self.name}': boundaries must be finite numbers in increasing order, but found {boundaries}."
            )

    @property
    def table_name(self) -> str:
        """Name of the table."""
        return self.table or self.name

    @property
    def column_name(self) -> str:
        """Name of the column that is read."""
        return self.column or self.name

    @property
    def numbering(self) -> str:
        """What a row of its table stands for, in words; features that share a table must agree."""
        if self.vocabulary is not None:
            return f"vocabulary: {Path(self.vocabulary)}"
        if self.boundaries is not None:
            return f"boundaries: {[float(boundary) for boundary in self.boundaries]}"
        return "out_of_range: hash" if self.out_of_range == "hash" else "ids as they are"


@dataclass(frozen=True)
class DenseFeature:
    """A numeric column.

    Args:
        name: Column name.
        fill: Value for a null or NaN; without one, a null is an error.

    Raises:
        ValueError: If ``fill`` is not finite.
    """

    name: str
    fill: float | None = None

    def __post_init__(self) -> None:
        if self.fill is not None and not isfinite(self.fill):
            raise ValueError(f"Dense feature '{self.name}': fill must be a finite number, but found {self.fill}.")
