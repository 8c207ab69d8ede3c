"""Ranks with unequal numbers of batches finish together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from torchrec_mtl.batch import MultiTaskBatch


class LockstepIterator(Iterator[MultiTaskBatch]):
    """Goes on, with padding, until every rank is exhausted.

    Before each batch the ranks agree (one all-reduce of one number, MAX) whether any of them has one left. A rank
    without gives a batch of padding, which enters no loss and no metric; so every row is consumed exactly once and
    no collective waits for a rank that has left. TorchRec's own modes hang or drop rows here.

    Args:
        batches: This rank's batches.
        padding: Makes a batch of padding of the same size.
        group: Gloo process group for the agreement, or ``None`` for a single process.
    """

    def __init__(
        self,
        batches: Iterator[MultiTaskBatch],
        padding: Callable[[], MultiTaskBatch],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.batches = batches
        self.padding = padding
        self.group = group

    def __next__(self) -> MultiTaskBatch:
        batch = next(self.batches, None)
        if self.group is None:
            any_left = batch is not None
        else:
            left = torch.tensor([batch is not None], dtype=torch.int32)
            dist.all_reduce(left, dist.ReduceOp.MAX, group=self.group)
            any_left = bool(left)
        if not any_left:
            raise StopIteration
        return self.padding() if batch is None else batch
