"""The one record that travels from files to the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class MultiTaskBatch(Pipelineable):
    """A batch of impressions with everything that any task may read of them.

    TorchRec's pipelines move it between devices and streams by themselves.

    Args:
        dense: Dense features, ``[B, F]`` float32 (``F`` may be 0).
        sparse: Bags of ids, one key a feature, stride ``B``.
        labels: ``{label column: [B]}`` float32; NaN means missing, and a missing label is outside every label space.
        weights: ``{weight column: [B]}`` float32, for instance the inverse of a row's sampling rate.
        sequences: Behaviour sequences, one key a feature, stride ``B``; ``None`` where there are none.
        places: Where each different id of ``sequences`` is held only once, whatever the row: the place of each step's
            id among its key's values, with the keys and the true lengths of the steps, stride ``B``. ``None`` where
            ``sequences`` holds an id for each step. Behaviours repeat: an id that is looked up once costs one lookup.

    Raises:
        ValueError: If the parts disagree on the number of rows.

    Example::

        batch = MultiTaskBatch(
            dense=torch.zeros(2, 1),
            sparse=KeyedJaggedTensor.from_lengths_sync(["shop"], torch.tensor([3, 5]), torch.tensor([1, 1])),
            labels={"click": torch.tensor([1.0, 0.0])},
        )
    """

    dense: Tensor
    sparse: KeyedJaggedTensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    sequences: KeyedJaggedTensor | None = None
    places: KeyedJaggedTensor | None = None

    def __post_init__(self) -> None:
        rows = {"dense": self.dense.shape[0], "sparse": self.sparse.stride()}
        for name, steps in (("sequences", self.sequences), ("places", self.places)):
            if steps is not None:
                rows[name] = steps.stride()
        rows |= {f"labels[{name!r}]": len(column) for name, column in self.labels.items()}
        rows |= {f"weights[{name!r}]": len(column) for name, column in self.weights.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"The parts of a batch must have the same number of rows, but found {rows}.")

    @property
    def num_rows(self) -> int:
        """Number of rows, ``B``."""
        return self.dense.shape[0]

    def to(self, device: torch.device, non_blocking: bool = False) -> MultiTaskBatch:
        """Returns the batch on ``device``."""
        return MultiTaskBatch(
            dense=self.dense.to(device, non_blocking=non_blocking),
            sparse=self.sparse.to(device, non_blocking=non_blocking),
            labels={name: column.to(device, non_blocking=non_blocking) for name, column in self.labels.items()},
            weights={name: column.to(device, non_blocking=non_blocking) for name, column in self.weights.items()},
            sequences=None if self.sequences is None else self.sequences.to(device, non_blocking=non_blocking),
            places=None if self.places is None else self.places.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> MultiTaskBatch:
        """Returns the batch in page-locked memory, from where copies to a GPU do not block."""
        return MultiTaskBatch(
            dense=self.dense.pin_memory(),
            sparse=self.sparse.pin_memory(),
            labels=_pinned(self.labels),
            weights=_pinned(self.weights),
            sequences=None if self.sequences is None else self.sequences.pin_memory(),
            places=None if self.places is None else self.places.pin_memory(),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells the allocator that ``stream`` uses the batch's memory."""
        for tensor in (self.dense, *self.labels.values(), *self.weights.values()):
            tensor.record_stream(stream)
        for ids in (self.sparse, self.sequences, self.places):
            if ids is not None:
                ids.record_stream(stream)


def _pinned(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: column.pin_memory() for name, column in columns.items()}
