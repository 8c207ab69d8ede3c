"""Fills the shards of tables with vectors from files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from torchrec_mtl.data.features import Features
from torchrec_mtl.data.pretrained import Coverage, read_vectors
from torchrec_mtl.training.addresses import table_entries


@dataclass(frozen=True)
class Shard:
    """This rank's piece of a table.

    Args:
        values: The piece, ``[rows, columns]``.
        row: First row of the table in it.
        column: First column.
    """

    values: Tensor
    row: int = 0
    column: int = 0

    def fill(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Takes those of the table's rows ``[V]``, and of their vectors ``[V, D]``, that lie in it."""
        height, width = self.values.shape
        inside = (rows >= self.row) & (rows < self.row + height)
        numbers = torch.from_numpy(vectors[inside, self.column : self.column + width])
        self.values[torch.from_numpy(rows[inside] - self.row).to(self.values.device)] = numbers.to(self.values)


def load_pretrained(pipeline: TrainPipelineSparseDist, features: Features) -> dict[str, Coverage]:
    """Gives the tables that declare it their vectors; every rank reads the files and fills what it holds.

    Args:
        pipeline: As built by :func:`~torchrec_mtl.training.pipeline.build_train_pipeline`, before its first step.
        features: The tables, and what their rows stand for.

    Returns:
        ``{table: how its file fits}``.

    Raises:
        ValueError: If a file does not fit its table.
    """
    found = {}
    model = pipeline._model
    state = model.state_dict()
    entries = table_entries(state)
    for table in features.tables:
        if table.pretrained is None:
            continue
        shards = list(_shards(state[entries[table.name]]))
        for vectors, coverage in read_vectors(features, table):
            found[table.name] = coverage
            for shard in shards:
                shard.fill(vectors.rows, vectors.values)
    model.load_state_dict(state)
    return found


def _shards(table: Tensor) -> Iterator[Shard]:
    """Pieces of a table on this rank: of a sharded tensor, or the whole of a replicated one."""
    if not hasattr(table, "local_shards"):
        yield Shard(table.detach())
        return
    for shard in table.local_shards():
        yield Shard(shard.tensor.detach(), *shard.metadata.shard_offsets)
