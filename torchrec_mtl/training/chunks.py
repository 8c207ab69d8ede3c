"""Large tables are saved in pieces, so that neither saving nor loading holds a second copy of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

CHUNK_BYTES = 64 * 2**20


class ChunkedSavePlanner(DefaultSavePlanner):
    """Saves every tensor of more than ``CHUNK_BYTES`` as chunks of rows.

    When torch's own reader loads a tensor, it reads each saved piece whole before it copies it into place: of a table
    that was saved as one piece there are then two. Any reader of such checkpoints reads the chunks, onto any sharding.
    """

    def create_local_plan(self) -> SavePlan:
        """This rank's pieces."""
        plan = super().create_local_plan()
        self._parts: dict[tuple[str, torch.Size | None], tuple[MetadataIndex, int, int]] = {}
        self.plan = replace(plan, items=[part for item in plan.items for part in self._split(item)])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The tensor, or the rows of it that a chunk holds."""
        part = self._parts.get((index.fqn, index.offset))
        if part is None:
            return super().lookup_object(index)
        whole, start, rows = part
        found = super().lookup_object(whole)
        assert isinstance(found, Tensor)
        return found.narrow(0, start, rows)

    def _split(self, item: WriteItem) -> Iterator[WriteItem]:
        data = item.tensor_data
        if data is None or not data.chunk.sizes or data.chunk.sizes.numel() == 0:
            yield item
            return
        sizes, offsets = data.chunk.sizes, data.chunk.offsets
        row_bytes = sizes.numel() // sizes[0] * data.properties.dtype.itemsize
        rows = max(1, CHUNK_BYTES // row_bytes)
        if rows >= sizes[0]:
            yield item
            return
        for start in range(0, sizes[0], rows):
            count = min(rows, sizes[0] - start)
            offset = torch.Size([offsets[0] + start, *offsets[1:]])
            chunk = ChunkStorageMetadata(offsets=offset, sizes=torch.Size([count, *sizes[1:]]))
            self._parts[item.index.fqn, offset] = (item.index, start, count)
            yield replace(
                item,
                index=MetadataIndex(item.index.fqn, offset),
                type=WriteItemType.SHARD,
                tensor_data=replace(data, chunk=chunk),
            )
