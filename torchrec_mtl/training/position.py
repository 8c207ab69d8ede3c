"""Where training stands, and what must be the same where it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchrec_mtl.data.meaning import differences

META = "meta.json"


@dataclass(frozen=True)
class Position:
    """Where training stands.

    Args:
        step: Steps taken since the beginning.
        epoch: Epoch that is under way.
        batch: Batches of it that are trained, on every rank.
        world_size: Number of ranks that trained them.
        batch_size: Rows a rank and step.
        sharding: ``{table: sharding type}``.
        tables: Class of the tables' optimizer.
        order: What the order of the rows depends on besides: seed, shuffle_rows and the row groups of the files.
        vocabularies: ``{feature: fingerprint of its vocabulary}``; ``None`` in checkpoints that do not say.
        features: What tables and features are (:func:`~torchrec_mtl.data.meaning.meanings`); ``None`` likewise.
        types: Types of hashed columns (:func:`~torchrec_mtl.data.meaning.hashed_types`); ``None`` where not known.
        frozen: Parts that do not train.
        new: Parts that train inside of those, as they started anew; ``None`` in checkpoints that do not say.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    world_size: int = 1
    batch_size: int = 0
    sharding: Mapping[str, str] = field(default_factory=dict)
    tables: str = ""
    order: str = ""
    vocabularies: Mapping[str, str] | None = None
    features: Mapping[str, str] | None = None
    types: Mapping[str, str] | None = None
    frozen: Sequence[str] = ()
    new: Sequence[str] | None = None


def read_position(path: Path) -> Position:
    """Where training stood at a checkpoint.

    Raises:
        ValueError: If the checkpoint cannot be read.
    """
    try:
        return Position(**json.loads((path / META).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"Cannot read the checkpoint at '{path}': {META} is damaged ({error}).") from error


def check_meaning(path: Path, position: Position, now: Position) -> None:
    """Refuses features of another meaning than the checkpoint's.

    Shapes that fit are not enough: another fill, order or kind of id would give trained numbers another meaning.

    Raises:
        ValueError: If there are such; the text names them.
    """
    _check_vocabularies(path, position, now)
    for what, before, after in (
        ("features", position.features, now.features),
        ("types of hashed columns", position.types, now.types),
    ):
        if before is not None and after is not None and (changed := differences(before, after)):
            raise ValueError(
                f"The checkpoint '{path}' was trained with other {what}: {changed}. Give those that it was trained "
                f"with, or train anew."
            )
    trained, declared = _tables(position), _tables(now)
    if trained and declared and trained != declared:  # the trunk reads table by table
        raise ValueError(
            f"The checkpoint '{path}' was trained with the tables in the order {trained}, but this job declares them "
            f"as {declared}, so the trunk would read one for another. Declare them in the order of the checkpoint."
        )


def _tables(position: Position) -> list[str]:
    """Names of the tables, in order."""
    return [name.removeprefix("table ").strip("'") for name in position.features or () if name.startswith("table ")]


def _check_vocabularies(path: Path, position: Position, now: Position) -> None:
    """A remade vocabulary numbers the rows anew, and nothing else would tell."""
    if position.vocabularies is None or now.vocabularies is None:
        return
    before, after = dict(position.vocabularies), dict(now.vocabularies)
    if changed := sorted(name for name in before | after if before.get(name) != after.get(name)):
        found = "; ".join(f"{name}: {before.get(name, 'none')}, now {after.get(name, 'none')}" for name in changed)
        raise ValueError(
            f"The checkpoint '{path}' was trained with other vocabularies of the features {changed} (fingerprints: "
            f"{found}), so its rows stand for other values. Give the vocabularies that it was trained with, or train "
            f"anew."
        )


def check_fits(path: Path, position: Position, now: Position) -> None:
    """Refuses to go on with another run.

    Raises:
        ValueError: If ranks, batches, rows, features, optimizer, frozen parts or sharding do not allow it.
    """
    check_meaning(path, position, now)
    middle = f"The checkpoint '{path}' stands in the middle of epoch {position.epoch + 1}"
    if position.batch and (position.world_size, position.batch_size) != (now.world_size, now.batch_size):
        raise ValueError(
            f"{middle}, read by {position.world_size} ranks with {position.batch_size} rows each; this run has "
            f"{now.world_size} ranks with {now.batch_size}, so its ranks cannot tell which rows are left. Resume with "
            f"{position.world_size} ranks and batch size {position.batch_size}, or from a checkpoint at the end of an "
            f"epoch."
        )
    if position.batch and position.order != now.order:
        raise ValueError(
            f"{middle}, but this run reads the rows in another order: training.seed, data.shuffle_rows or the training "
            f"files have changed, so some rows would be read twice and others never. Resume with the same ones, or "
            f"from a checkpoint at the end of an epoch."
        )
    if position.tables != now.tables:
        raise ValueError(
            f"The checkpoint '{path}' holds the state of {position.tables} for the tables, but this run uses "
            f"{now.tables}. Resume with the same optimizer."
        )
    if sorted(position.frozen) != sorted(now.frozen):
        raise ValueError(
            f"The checkpoint '{path}' was trained with freeze {list(position.frozen)}, but this run has "
            f"{list(now.frozen)}, so the optimizers have other parameters. Resume with the same, or begin another run "
            f"with training.start_from."
        )
    if position.new is not None and now.new is not None and sorted(position.new) != sorted(now.new):
        raise ValueError(
            f"The checkpoint '{path}' was trained with start_from.new {list(position.new)}, but this run has "
            f"{list(now.new)}: inside of what is frozen these parts train, so others would train now. Resume with the "
            f"same, or begin another run with training.start_from."
        )
    for table, before in position.sharding.items():
        after = now.sharding.get(table, before)
        replicated = "data_parallel" in (before, after)
        by_column = "RowWise" in now.tables and ("column" in before or "column" in after)
        if before != after and (replicated or by_column):
            raise ValueError(
                f"The checkpoint '{path}' holds table '{table}' sharded {before}, but this run plans {after}: the "
                f"state of {now.tables} has another shape there. Constrain the table to {before}."
            )
