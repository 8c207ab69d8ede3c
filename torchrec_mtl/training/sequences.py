"""From declared sequences and attention classes to the encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_mtl.data.features import Features
from torchrec_mtl.data.sequence import BehaviourSequence
from torchrec_mtl.sequences import SequenceAttention, SequenceBlock, SequenceColumns, SequenceEncoder, SequenceWidths

MakeAttention = Callable[[SequenceWidths], SequenceAttention]


def sequence_encoder(
    features: Features, attention: Mapping[str, MakeAttention], per_task: Collection[str], num_tasks: int
) -> SequenceEncoder | None:
    """The encoder of all declared sequences, with tables on the meta device; ``None`` where there are none.

    Args:
        features: What is declared.
        attention: ``{sequence: makes its block}``.
        per_task: Sequences with a block for each tower.
        num_tasks: Number of towers.

    Raises:
        ValueError: If sequences and blocks do not match, or a block does not fit its sequence.
    """
    declared = [sequence.name for sequence in features.sequences]
    if set(attention) != set(declared):
        raise ValueError(
            f"network.attention must name one attention class for each sequence of features.sequences {declared}, but "
            f"found {sorted(attention)}."
        )
    if unknown := sorted(set(per_task) - set(declared)):
        raise ValueError(f"network.attention_per_task names {unknown}, but the sequences are {declared}.")
    if not declared:
        return None
    blocks = {}
    for sequence in features.sequences:
        make, widths = attention[sequence.name], _widths(features, sequence)
        made = [make(widths) for _ in range(num_tasks)] if sequence.name in per_task else make(widths)
        blocks[sequence.name] = SequenceBlock(_columns(sequence), made)
    return SequenceEncoder(
        EmbeddingCollection(tables=features.embedding_configs(), device=torch.device("meta")), blocks
    )


def _columns(sequence: BehaviourSequence) -> SequenceColumns:
    return SequenceColumns(
        items=[column.name for column in sequence.items],
        properties=[column.name for column in sequence.properties],
        query=sequence.query,
        user=sequence.user,
        max_length=sequence.max_length,
    )


def _widths(features: Features, sequence: BehaviourSequence) -> SequenceWidths:
    dimension = {feature.name: features.table_of(feature).dimension for feature in features.ids}
    columns = _columns(sequence)
    items, query, properties, user = (
        sum(dimension[name] for name in names)
        for names in (columns.items, columns.query, columns.properties, columns.user)
    )
    return SequenceWidths(items, query, properties, user)
