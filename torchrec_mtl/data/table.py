"""Embedding tables, as they are declared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Literal

from torch.nn.init import uniform_

from torchrec_mtl.names import check_name


@dataclass(frozen=True)
class ManagedCollision:
    """TorchRec's managed collision: rows are given to ids while they train, and taken back from rare ones.

    Args:
        eviction_interval: Training steps between changes of the map from ids to rows. Until the first change all ids
            share one row. TorchRec keeps all ids of the interval, with 20 bytes for each, beside the table.

    Raises:
        ValueError: If ``eviction_interval`` is not positive.
    """

    eviction_interval: int = 100

    def __post_init__(self) -> None:
        if self.eviction_interval < 1:
            raise ValueError(
                f"managed_collision: eviction_interval must be at least 1 step, but found {self.eviction_interval}."
            )


@dataclass(frozen=True)
class Pretrained:
    """A file with vectors that rows of a table start with when a training begins.

    Args:
        path: Parquet: a file, a directory or a glob, local or an address.
        values: Column of the values, each once: those of the table's vocabulary, or without one numbers of rows.
        vectors: Column of lists of numbers, each as long as the table's dimension.
    """

    path: str
    values: str = "value"
    vectors: str = "vector"


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
        managed_collision: Makes the table take any integer or string as an id
            (:class:`~torchrec_mtl.managed.ManagedEmbeddings`). Trains on CUDA alone; no GPU has run it in the
            project's tests. By default an id is mapped to a row when the batch is made.
        pretrained: Vectors that rows start with; values without a row are left out, and rows without a vector start as
            others do.

    Raises:
        ValueError: If the name contains a dot, ``rows`` is not positive, ``dimension`` no positive multiple of 4, the
            pooling unknown or ``init_scale`` negative.
    """

    name: str
    rows: int
    dimension: int = 16
    pooling: Literal["sum", "mean"] = "sum"
    init_scale: float | None = None
    managed_collision: ManagedCollision | None = None
    pretrained: Pretrained | None = None

    def __post_init__(self) -> None:
        check_name("Table", self.name)
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

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments that TorchRec's configurations of bags and of sequences share."""
        scale = self.init_scale
        return {
            "name": self.name,
            "num_embeddings": self.rows,
            "embedding_dim": self.dimension,
            "init_fn": None if scale is None else partial(uniform_, a=-scale, b=scale),
        }
