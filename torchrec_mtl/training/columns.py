"""Which columns each part of a model reads: a loaded part must find every feature where it stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchrec_mtl.model import MultiTaskModel

Columns = Mapping[str, Sequence[Sequence[Any]]]


def columns_of(model: MultiTaskModel) -> dict[str, list[tuple[str, int]]]:
    """``{part: [(feature, width), ...]}`` of what each part of a model reads, in the order of the columns.

    Args:
        model: The model.

    Returns:
        ``trunk`` is what all tasks share, ``trunk.<tower>`` a tower's own copies; ``towers.<tower>`` what a tower reads
        beside the trunk's vector, its sequences first; ``sequences.<sequence>`` what its attention asks the impression.
    """
    found, sequences = dict(model.vector.columns), model.sequences
    if sequences is None:
        return found
    blocks = zip(sequences.attend.per_task_names, sequences.attend.per_task, strict=True)
    own = [(name, int(each[0].out_features)) for name, each in blocks]  # type: ignore[index]
    for tower in model.heads.tower_names if own else ():
        found[f"towers.{tower}"] = [*own, *found.get(f"towers.{tower}", [])]
    widths = {name: width for each in model.vector.columns.values() for name, width in each}
    for name, asked in sequences.asks_for.items():
        found[f"sequences.{name}"] = [(feature, widths.get(feature, 0)) for feature in asked]
    return found


def moved_columns(before: Columns, after: Columns, part: str) -> str:
    """What a part reads in other places or widths than in a checkpoint, in words; empty if nothing.

    Names are left out of it: whoever knows what features mean compares these.

    Args:
        before: As the checkpoint has it.
        after: As this model has it.
        part: The part.
    """
    there, here = ([(name, int(width)) for name, width in each.get(part, [])] for each in (before, after))
    if [width for _, width in there] == [width for _, width in here]:
        return ""
    texts = [", ".join(f"{name} {width}" for name, width in each) or "nothing" for each in (there, here)]
    return f"{texts[0]}, now {texts[1]}"
