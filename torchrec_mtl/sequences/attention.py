"""The contract of every block that reads a behaviour sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from itertools import chain

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SequenceWidths:
    """Widths of the vectors that a block reads.

    Args:
        items: Embeddings of one step's item side (item, shop, brand, category), concatenated: ``D``.
        query: The candidate's embeddings, ``Q``; equal to ``D`` where the same columns describe candidate and item.
        properties: Embeddings of one step's property side (behaviour type, scenario, time gap), ``P``.
        user: Embeddings of the user side, ``U``.

    Raises:
        ValueError: If a step has no item side, or a width is negative.
    """

    items: int
    query: int
    properties: int = 0
    user: int = 0

    def __post_init__(self) -> None:
        if self.items < 1 or min(self.query, self.properties, self.user) < 0:
            raise ValueError(
                f"SequenceWidths: 'items' must be at least 1 and the others at least 0, but found {asdict(self)}."
            )


@dataclass(frozen=True)
class JaggedSequence:
    """All steps of all rows after one another, without padding; ``V`` is the number of steps in the batch.

    Args:
        items: Item side of each step, ``[V, D]``.
        offsets: ``[B + 1]`` int64; row b owns the steps ``offsets[b]`` to ``offsets[b + 1] - 1``, the oldest first.
        query: The candidate of each row, ``[B, Q]``.
        properties: Property side of each step, ``[V, P]``.
        user: User side of each row, ``[B, U]``.
        max_length: Declared bound on the number of a row's steps.
    """

    items: Tensor
    offsets: Tensor
    query: Tensor
    properties: Tensor
    user: Tensor
    max_length: int

    @property
    def num_rows(self) -> int:
        """Number of rows, ``B``."""
        return self.offsets.shape[0] - 1

    @property
    def lengths(self) -> Tensor:
        """Steps of each row, ``[B]``."""
        return self.offsets.diff()

    def owners(self) -> Tensor:
        """The row that owns each step, ``[V]``."""
        rows = torch.arange(self.num_rows, device=self.offsets.device)
        return rows.repeat_interleave(self.lengths, output_size=self.items.shape[0])  # the size spares a GPU a wait

    def padded_length(self) -> int:
        """Steps to pad to, at least 1: those of the longest row, or the bound where reading them would stall a GPU."""
        if self.offsets.is_cuda or torch.compiler.is_compiling():
            return max(self.max_length, 1)
        return max(int(self.lengths.max()), 1) if self.num_rows else 1


class SequenceAttention(nn.Module, ABC):
    """Maps the behaviour sequence of each row to one vector, ``[B, S]``, in the dtype of the items.

    A row without steps gives zeros, and a row's vector depends on no other row.

    Args:
        widths: Widths of what it reads.
        out_features: Width of what it makes, ``S``.

    Raises:
        ValueError: If ``out_features`` is not positive; when called, if the sequence does not fit the widths, its
            offsets do not fit its steps, or (on CPU, where looking is free) a row is longer than ``max_length``.
    """

    def __init__(self, widths: SequenceWidths, out_features: int) -> None:
        super().__init__()
        if out_features < 1:
            raise ValueError(f"{type(self).__name__}: out_features must be at least 1, but found {out_features}.")
        self.widths = widths
        self.out_features = out_features
        self.register_forward_pre_hook(_refuse_misfit, with_kwargs=True)

    @abstractmethod
    def forward(self, sequence: JaggedSequence) -> Tensor:
        """Maps a jagged batch of ``V`` steps in ``B`` rows to ``[B, S]``."""


def _refuse_misfit(
    block: SequenceAttention, args: tuple[JaggedSequence, ...], kwargs: dict[str, JaggedSequence]
) -> None:
    sequence = next(chain(args, kwargs.values()))
    name, widths, steps, rows = type(block).__name__, block.widths, sequence.items.shape[0], sequence.num_rows
    found = {side: list(getattr(sequence, side).shape) for side in ("items", "query", "properties", "user")}
    fitting = {
        "items": [steps, widths.items],
        "query": [rows, widths.query],
        "properties": [steps, widths.properties],
        "user": [rows, widths.user],
    }
    if found != fitting:
        raise ValueError(f"{name}: {rows} rows with {steps} steps must have the shapes {fitting}, but found {found}.")
    if sequence.offsets.is_cuda or torch.compiler.is_compiling() or not rows:
        return
    first, last = int(sequence.offsets[0]), int(sequence.offsets[-1])
    shortest, longest = (int(extreme) for extreme in sequence.lengths.aminmax())
    if first != 0 or last != steps or shortest < 0:
        raise ValueError(
            f"{name}: offsets must ascend from 0 to the number of steps, {steps}, but found {first} to {last} "
            f"and a shortest row of {shortest} steps."
        )
    if longest > sequence.max_length:  # FBGEMM would leave the surplus uninitialised, without a word
        raise ValueError(
            f"{name}: a row has {longest} steps, but max_length is {sequence.max_length}. Truncate the rows before."
        )
