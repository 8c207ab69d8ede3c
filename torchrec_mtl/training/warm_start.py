"""Starts a model with what a checkpoint of other tasks has learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from torchrec_mtl.heads.heads import TaskHeads
from torchrec_mtl.objective import MultiTaskObjective
from torchrec_mtl.training.addresses import Address, NetworkNames
from torchrec_mtl.training.checkpoint import objective_of, read_shapes, read_state
from torchrec_mtl.training.freezing import check_parts
from torchrec_mtl.training.matching import Addresses, Match, addresses, match
from torchrec_mtl.training.origin import Origin
from torchrec_mtl.training.start_from import StartFrom
from torchrec_mtl.training.start_network import check_columns, check_trunk


@dataclass(frozen=True)
class Started:
    """What a model began with.

    Args:
        checkpoint: The checkpoint; ``None`` if there was none.
        parts: ``{part: {"loaded": numbers, "new": numbers, "there": its name in the checkpoint}}``.
        left: ``{part of the checkpoint: numbers}`` that nothing took.
        notes: Sentences on what else happened.
    """

    checkpoint: str | None = None
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = field(default_factory=list)


def warm_start(pipeline: TrainPipelineSparseDist, start: StartFrom) -> Started:
    """Loads from a checkpoint all that a model shares with it; every rank calls it, before the first step.

    Features are compared by their places and widths alone: what they mean a job compares, and who builds a pipeline of
    one's own knows.

    Args:
        pipeline: As built by :func:`~torchrec_mtl.training.pipeline.build_train_pipeline`.
        start: The checkpoint, what is called otherwise there and what starts anew.

    Returns:
        What was loaded, what starts anew, and what of the checkpoint was left.

    Raises:
        ValueError: If something that is not new would start at random, shapes differ, or a name is not known; nothing
            is loaded then.

    Example::

        freeze(objective, ["tables", "trunk"], new=["towers.like"])
        pipeline = build_train_pipeline(objective, torch.optim.Adam)
        warm_start(pipeline, StartFrom("runs/clicks/checkpoints", new=["towers.like"]))
    """
    origin = Origin.read(start)
    objective = objective_of(pipeline)
    found = _match(start, origin, objective, _shapes(pipeline))
    model = pipeline._model
    state = model.state_dict()
    request: dict[str, Any] = {}
    for piece in found.pieces:
        if piece.source is not None and piece.loaded:
            target = state[piece.entry]
            whole = piece.is_whole
            request[f"model.{piece.source}"] = target if whole else torch.empty(piece.source_shape, dtype=target.dtype)
    if request:
        read_state(origin.path, request)
    for piece in found.pieces:
        if piece.source is not None and piece.loaded and not piece.is_whole:
            piece.copy(request[f"model.{piece.source}"], state[piece.entry])
    model.load_state_dict(state)
    notes = [*_moved(found, objective), *origin.changed_layers(NetworkNames.of(objective))]
    return Started(str(origin.path), _parts(found, origin), found.left, notes)


def _moved(found: Match, objective: MultiTaskObjective) -> list[str]:
    """What is to be said of a frozen trunk whose tasks read each other, when some came, went or train."""
    trunk = objective.model.trunk
    if all(parameter.requires_grad for parameter in trunk.parameters()):
        return []
    name, notes = type(trunk).__name__, []
    if any(each.crosses for each in found.pieces):
        notes.append(
            f"Tasks came or went, and in {name} each task's vector depends on all tasks: outputs of kept towers, "
            f"frozen or not, are no longer what they were in the checkpoint."
        )
    still, live = _still_after(objective.model.heads) if trunk.reads_towers else ([], [])
    if still:
        notes.append(
            f"In {name} a task's vector depends on what the towers before its own predict: outputs of the frozen "
            f"towers {still} move while {live} train. Freeze these, too, if they are to stay."
        )
    return notes


def _still_after(heads: TaskHeads) -> tuple[list[str], list[str]]:
    """Frozen towers that stand after one that trains; and those that train before the last of them."""
    trains = [any(each.requires_grad for each in tower.parameters()) for tower in heads.towers]
    still = [place for place, live in enumerate(trains) if not live and any(trains[:place])]
    before = trains[: still[-1]] if still else []
    names = heads.tower_names
    return [names[place] for place in still], [names[place] for place, live in enumerate(before) if live]


def _shapes(pipeline: TrainPipelineSparseDist) -> dict[str, tuple[int, ...]]:
    state = pipeline._model.state_dict()
    return {name: tuple(each.size()) for name, each in state.items() if hasattr(each, "size")}


def _match(
    start: StartFrom, origin: Origin, objective: MultiTaskObjective, shapes: Mapping[str, Sequence[int]]
) -> Match:
    new, names, trunk = origin.start.new, NetworkNames.of(objective), objective.model.trunk
    kept = origin.kept(names.towers)
    parts, before = trunk.task_parts(), origin.before
    check_trunk(origin, names, trunk)
    check_columns(origin, names)
    here = addresses(shapes, names, parts)
    _check_names(start, names, here)
    tables = {f"tables.{name}": f"tables.{after}" for name, after in origin.start.renamed("tables").items()}
    shapes = read_shapes(origin.path)
    try:
        there = addresses(shapes, before, parts if origin.loads("trunk") else None, tables)
        return match(here, there, new, [name for name in names.towers if name not in kept])
    except ValueError as error:
        raise ValueError(
            f"The checkpoint '{origin.path}' {error}. It holds {_held(origin)}. Parts that are to start anew are named "
            f"in start_from.new, and towers and tables that were called otherwise in start_from.rename."
        ) from error


def _check_names(start: StartFrom, names: NetworkNames, here: Addresses) -> None:
    found: list[Address] = [address for address, _ in here.values()]
    found += [Address(f"towers.{name}") for name in names.towers]
    tables = {address.part.removeprefix("tables.") for address in found if address.part.startswith("tables.")}
    check_parts(start.new, found, sorted(tables), "start_from.new")
    aside = [after for before, after in start.rename.items() if before in start.rename.values()]  # makes room there
    check_parts([n for n in start.rename.values() if n not in aside], found, sorted(tables), "start_from.rename")


def _held(origin: Origin) -> str:
    towers = origin.serving.network.towers if origin.serving.network else []
    return f"towers {list(towers)} and tables {sorted(origin.position.sharding)}"


def _parts(found: Match, origin: Origin) -> dict[str, dict[str, Any]]:
    names = {after: before for before, after in origin.start.rename.items()}
    parts: dict[str, dict[str, Any]] = {}
    for piece in found.pieces:
        part = piece.address.part
        counts = parts.setdefault(part, {"loaded": 0, "new": 0, "there": names.get(part, part)})
        counts["loaded"] += piece.loaded
        counts["new"] += prod(piece.shape) - piece.loaded
    return parts
