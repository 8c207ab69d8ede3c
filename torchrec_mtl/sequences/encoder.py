"""Behaviour sequences inside the model: lookup, attention, and what trunk and towers read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_mtl.sequences.attention import JaggedSequence, SequenceAttention
from torchrec_mtl.sequences.jagged import row_sums


@dataclass(frozen=True)
class SequenceColumns:
    """Which embeddings make one sequence.

    Args:
        items: Keys of the item side, each ``[V, d]``.
        properties: Keys of the property side.
        query: Features of the candidate, pooled or in the collection.
        user: Features of the user, pooled or in the collection.
        max_length: Bound on the steps of a row; the batch is truncated to it already.
    """

    items: Sequence[str]
    properties: Sequence[str] = field(default_factory=list)
    query: Sequence[str] = field(default_factory=list)
    user: Sequence[str] = field(default_factory=list)
    max_length: int = 50

    @property
    def steps(self) -> list[str]:
        """Keys with one embedding a step."""
        return [*self.items, *self.properties]


@dataclass(frozen=True)
class SequenceBlock:
    """One sequence and the attention that reads it.

    Args:
        columns: Its columns.
        attention: One block, shared by all tasks, whose vector joins the features that the trunk reads; or one block a
            tower, whose vectors join what the trunk gives to each tower.

    Raises:
        ValueError: If there is no block, or blocks of a sequence differ in width.
    """

    columns: SequenceColumns
    attention: SequenceAttention | Sequence[SequenceAttention]

    def __post_init__(self) -> None:
        if len({block.out_features for block in self.blocks}) != 1:
            raise ValueError(
                f"A sequence needs one attention block, or one a tower and all of one width, but found widths "
                f"{[block.out_features for block in self.blocks]}."
            )

    @property
    def shared(self) -> bool:
        """Whether all tasks share the block."""
        return isinstance(self.attention, SequenceAttention)

    @property
    def blocks(self) -> list[SequenceAttention]:
        """The block, or one a tower."""
        return [self.attention] if isinstance(self.attention, SequenceAttention) else list(self.attention)


class SequenceEncoder(nn.Module):
    """Looks up behaviour sequences in a (sharded) embedding collection and attends to them.

    A table that a sequence reads belongs to the collection whole, also where the candidate shares it: features of the
    candidate with such a table are looked up here, summed over their bag, and join the features that the trunk reads.

    Args:
        embeddings: Tables of all steps, and of the single features that share them; all of one dimension.
        sequences: ``{name: columns and attention}``.

    Shapes:
        sequences: one key a feature, stride ``B``. pooled: the other features' embeddings, ``[B, …]``, if any.
        places: see :class:`~torchrec_mtl.batch.MultiTaskBatch`.
        Returns ``(features [B, out_features], per task [B, T, task_features])``; the second is ``[B, 1, 0]`` where no
        sequence has a block a tower.

    Raises:
        ValueError: If a key has no table, no sequence is given, or sequences differ in their number of towers.
    """

    def __init__(self, embeddings: EmbeddingCollection, sequences: Mapping[str, SequenceBlock]) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.attend = _Attend(embeddings, sequences)

    @property
    def out_features(self) -> int:
        """Width of what joins the features that the trunk reads."""
        return self.attend.out_features

    @property
    def widths(self) -> dict[str, int]:
        """``{feature of the candidate, or sequence: width}`` of what joins the features that the trunk reads."""
        return self.attend.widths

    @property
    def asks_for(self) -> dict[str, list[str]]:
        """``{sequence: the features of candidate and user that its attention reads}``."""
        return {name: [*columns.query, *columns.user] for name, columns in self.attend.sequences.items()}

    @property
    def task_features(self) -> int:
        """Width of what joins the trunk's vector of each task."""
        return self.attend.task_features

    @property
    def num_tasks(self) -> int | None:
        """Number of towers that have blocks of their own, if any have."""
        return self.attend.num_tasks

    def forward(
        self, sequences: KeyedJaggedTensor, pooled: KeyedTensor | None, places: KeyedJaggedTensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Maps steps to features and to vectors for each task."""
        return self.attend(self.embeddings(sequences), pooled, places)


class _Attend(nn.Module):
    """Everything after the lookup: a leaf for TorchRec's tracer, so it may branch."""

    def __init__(self, embeddings: EmbeddingCollection, sequences: Mapping[str, SequenceBlock]) -> None:
        super().__init__()
        dimension = {
            key: config.embedding_dim for config in embeddings.embedding_configs() for key in config.feature_names
        }
        _check_keys(sequences, dimension)
        self.sequences = {name: block.columns for name, block in sequences.items()}
        steps = {key for columns in self.sequences.values() for key in columns.steps}
        self.singles = [key for key in dimension if key not in steps]
        self.shared_names = [name for name, block in sequences.items() if block.shared]
        self.per_task_names = [name for name, block in sequences.items() if not block.shared]
        self.shared = nn.ModuleList(sequences[name].blocks[0] for name in self.shared_names)
        self.per_task = nn.ModuleList(nn.ModuleList(sequences[name].blocks) for name in self.per_task_names)
        towers = {len(block.blocks) for block in sequences.values() if not block.shared}
        if len(towers) > 1:
            raise ValueError(f"Sequences with a block a tower must agree on the number of towers, but found {towers}.")
        self.num_tasks = next(iter(towers), None)
        self.task_features = sum(block.blocks[0].out_features for block in sequences.values() if not block.shared)
        widths = [(key, dimension[key]) for key in self.singles]
        widths += [(name, sequences[name].blocks[0].out_features) for name in self.shared_names]
        self.widths = dict(widths)
        if both := sorted(set(self.singles) & set(self.shared_names)):
            raise ValueError(
                f"{both} are names of sequences and of features that share their tables. Rename the former."
            )
        self.out_features = sum(width for _, width in widths)

    def forward(
        self, embedded: dict[str, JaggedTensor], pooled: KeyedTensor | None, places: KeyedJaggedTensor | None
    ) -> tuple[Tensor, Tensor]:
        """Maps embeddings to ``([B, out_features], [B, T, task_features])``."""
        if places is not None:
            embedded = _spread(embedded, places)
        single = {key: _summed(embedded[key]) for key in self.singles}  # [B, d]
        rows = single if pooled is None else {**pooled.to_dict(), **single}
        jagged = {name: _jagged(columns, embedded, rows) for name, columns in self.sequences.items()}
        shared = [block(jagged[name]) for name, block in zip(self.shared_names, self.shared, strict=True)]
        per_task = [
            torch.stack([block(jagged[name]) for block in cast(nn.ModuleList, blocks)], dim=1)  # [B, T, S]
            for name, blocks in zip(self.per_task_names, self.per_task, strict=True)
        ]
        first = next(iter(jagged.values()))
        nothing = first.items.new_zeros(first.num_rows, 0)
        features = torch.cat([nothing, *single.values(), *shared], dim=1)
        return features, torch.cat(per_task, dim=2) if per_task else nothing.unsqueeze(1)


def _spread(embedded: Mapping[str, JaggedTensor], places: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
    """Gives each step the embedding of its id, from embeddings of the different ids."""
    return {
        key: JaggedTensor(embedded[key].values().index_select(0, steps.values()), lengths=steps.lengths())
        for key, steps in places.to_dict().items()
    }


def _jagged(
    columns: SequenceColumns, embedded: Mapping[str, JaggedTensor], rows: Mapping[str, Tensor]
) -> JaggedSequence:
    offsets = embedded[columns.items[0]].offsets()
    steps = embedded[columns.items[0]].values()
    return JaggedSequence(
        items=torch.cat([embedded[key].values() for key in columns.items], dim=1),
        offsets=offsets.long(),
        query=_side([rows[key] for key in columns.query], steps, len(offsets) - 1),
        properties=_side([embedded[key].values() for key in columns.properties], steps, len(steps)),
        user=_side([rows[key] for key in columns.user], steps, len(offsets) - 1),
        max_length=columns.max_length,
    )


def _side(parts: Sequence[Tensor], like: Tensor, rows: int) -> Tensor:
    return torch.cat(list(parts), dim=1) if parts else like.new_zeros(rows, 0)


def _summed(bags: JaggedTensor) -> Tensor:
    """Sum of each row's embeddings: ``[V, d]`` to ``[B, d]``."""
    rows = torch.arange(len(bags.lengths()), device=bags.values().device)
    owner = rows.repeat_interleave(bags.lengths(), output_size=len(bags.values()))
    return row_sums(bags.values(), owner, len(rows)).to(bags.values().dtype)


def _check_keys(sequences: Mapping[str, SequenceBlock], dimension: Mapping[str, int]) -> None:
    if not sequences:
        raise ValueError("SequenceEncoder needs at least one sequence, but found none.")
    for name, block in sequences.items():
        if missing := [key for key in block.columns.steps if key not in dimension]:
            raise ValueError(
                f"Sequence '{name}': {missing} have no table in the embedding collection, which holds "
                f"{sorted(dimension)}."
            )
