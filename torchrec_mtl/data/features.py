"""Feature declarations: which column is a bag of ids, which table holds it, which column is dense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from math import isfinite
from typing import Literal

from torch.nn.init import uniform_
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType


@dataclass(frozen=True)
class Table:
    """An embedding table, sharded by TorchRec.

    Args:
        name: Name of the table.
        rows: Number of rows; ids lie in ``[0, rows)``.
        dimension: Width of an embedding; FBGEMM needs a multiple of 4.
        pooling: How the embeddings of one bag become one vector. For single-valued features "sum" is the same number
            as "mean" and, on CPU, ten times faster.
        init_scale: Rows start uniformly in ``[-init_scale, init_scale]``; by default, as in TorchRec, ``rows**-0.5``.
            With 0 an id that was never seen is neutral, and the towers cannot tell rare ids apart by their noise.

    Raises:
        ValueError: If ``rows`` is not positive, ``dimension`` no positive multiple of 4, the pooling unknown or
            ``init_scale`` negative.
    """

    name: str
    rows: int
    dimension: int = 16
    pooling: Literal["sum", "mean"] = "sum"
    init_scale: float | None = None

    def __post_init__(self) -> None:
        if self.init_scale is not None and not (isfinite(self.init_scale) and self.init_scale >= 0):
            raise ValueError(
                f"Table '{self.name}': init_scale must be a finite number of at least 0, but found {self.init_scale}."
            )
        if self.rows < 1:
            raise ValueError(f"Table '{self.name}': rows must be at least 1, but found {self.rows}.")
        if self.dimension < 4 or self.dimension % 4:
            raise ValueError(
                f"Table '{self.name}': dimension must be a positive multiple of 4 (FBGEMM reads four numbers at a "
                f"time), but found {self.dimension}."
            )
        if self.pooling not in ("sum", "mean"):
            raise ValueError(f"Table '{self.name}': pooling must be 'sum' or 'mean', but found '{self.pooling}'.")


@dataclass(frozen=True)
class SparseFeature:
    """A column of ids: one integer a row, or a list of integers (a bag). A null is an empty bag.

    Args:
        name: Column name.
        table: Table that holds the embeddings; by default the table of the column's own name. Several features may
            share one.
        out_of_range: What to do with an id outside ``[0, rows)``: "error" names it; "hash" maps **every** id of this
            feature to a row by a fixed 64-bit mix (so that large ids spread evenly).

    Raises:
        ValueError: If ``out_of_range`` is unknown.
    """

    name: str
    table: str | None = None
    out_of_range: Literal["error", "hash"] = "error"

    def __post_init__(self) -> None:
        if self.out_of_range not in ("error", "hash"):
            raise ValueError(
                f"Feature '{self.name}': out_of_range must be 'error' or 'hash', but found '{self.out_of_range}'."
            )

    @property
    def table_name(self) -> str:
        """Name of the table."""
        return self.table or self.name


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


@dataclass(frozen=True)
class Features:
    """All that a model reads of an impression.

    Args:
        tables: Embedding tables.
        sparse: Id columns, each with its table.
        dense: Numeric columns, in the order in which they stand in the batch.

    Raises:
        ValueError: If a name occurs twice, a feature's table is not declared, or a table holds no feature.
    """

    tables: Sequence[Table]
    sparse: Sequence[SparseFeature]
    dense: Sequence[DenseFeature] = field(default_factory=list)

    def __post_init__(self) -> None:
        for kind, names in (
            ("Tables", [table.name for table in self.tables]),
            ("Features", [*(feature.name for feature in self.sparse), *(feature.name for feature in self.dense)]),
        ):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"{kind} must have different names, but {twice} are declared more than once.")
        if not self.sparse:
            raise ValueError("At least one sparse feature is needed: the model starts from embedding tables.")
        declared = {table.name for table in self.tables}
        for feature in self.sparse:
            if feature.table_name not in declared:
                close = get_close_matches(feature.table_name, declared, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else "."
                raise ValueError(
                    f"Feature '{feature.name}': table '{feature.table_name}' is not declared. "
                    f"Found {sorted(declared)}{hint}"
                )
        if unused := declared - {feature.table_name for feature in self.sparse}:
            raise ValueError(f"Tables {sorted(unused)} hold no feature: give each a feature, or remove it.")

    def table_of(self, feature: SparseFeature) -> Table:
        """The table that holds a feature."""
        return next(table for table in self.tables if table.name == feature.table_name)

    @property
    def width(self) -> int:
        """Width of the feature vector ``D``: dense features as they are, and pooled embeddings."""
        return len(self.dense) + self.embedding_width

    @property
    def embedding_width(self) -> int:
        """Width of the pooled embeddings alone, ``D_e``."""
        return sum(self.table_of(feature).dimension for feature in self.sparse)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """TorchRec's configuration of every table."""
        return [
            EmbeddingBagConfig(
                name=table.name,
                num_embeddings=table.rows,
                embedding_dim=table.dimension,
                feature_names=[feature.name for feature in self.sparse if feature.table_name == table.name],
                pooling=PoolingType.SUM if table.pooling == "sum" else PoolingType.MEAN,
                init_fn=None
                if table.init_scale is None
                else partial(uniform_, a=-table.init_scale, b=table.init_scale),
            )
            for table in self.tables
        ]
