"""Ranks with unequal numbers of batches finish together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from torchrec_mtl.batch import MultiTaskBatch

_FAILED = 2  # above 1 (a batch) and 0 (none), so that MAX finds it


class LockstepIterator(Iterator[MultiTaskBatch]):
    """Goes on, with padding, until every rank is exhausted.

    Before each batch the ranks agree (one all-reduce of one number, MAX) whether any of them has one left. A rank
    without gives a batch of padding, which enters no loss and no metric; so every row is consumed exactly once and
    no collective waits for a rank that has left. Where one fails to read its batch, all raise. TorchRec's own modes
    hang or drop rows here.

    Args:
        batches: This rank's batches.
        padding: Makes a batch of padding of the same size.
        group: Gloo process group for the agreement, or ``None`` for a single process.

    Raises:
        ValueError: On ``next``, where another rank could not read its batch; that rank raises its own error.
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
        batch, error = None, None
        try:
            batch = next(self.batches, None)
        except Exception as caught:  # whatever it is, the other ranks must hear of it
            error = caught
        found = _FAILED if error is not None else int(batch is not None)
        if self.group is not None:
            most = torch.tensor([found], dtype=torch.int32)
            dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group)
            found = int(most)
        if error is not None:
            raise error
        if found == _FAILED:
            raise ValueError("Another rank could not read its next batch; its own message says why.")
        if not found:
            raise StopIteration
        return self.padding() if batch is None else batch
