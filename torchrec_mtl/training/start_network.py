"""Whether a network fits the one of the checkpoint that it starts from, where shapes do not tell."""

from __future__ import annotations

from torchrec_mtl.training.addresses import NetworkNames
from torchrec_mtl.training.columns import moved_columns
from torchrec_mtl.training.freezing import new_towers
from torchrec_mtl.training.origin import Origin
from torchrec_mtl.trunks.trunk import Trunk


def check_trunk(origin: Origin, names: NetworkNames, trunk: Trunk) -> None:
    """Checks that a trunk can start from the checkpoint's, if it is to.

    Args:
        origin: The checkpoint.
        names: What this job's network is.
        trunk: This job's.

    Raises:
        ValueError: If it is of another class, does not say which of its parameters belong to which task where tasks
            came or went, says so of other parts, or cannot start from a trunk of such tasks.
    """
    if not origin.loads("trunk"):
        return
    _check_kind(origin, names, says=names.task_parts is not None)
    _check_task_parts(origin, names)
    trunk.check_start(origin.before.towers, names.towers, new_towers(names.towers, origin.start.new))


def _check_kind(origin: Origin, names: NetworkNames, says: bool) -> None:
    was, kind = (each.rpartition(".")[2] for each in (origin.before.trunk, names.trunk))
    if was != kind:
        raise ValueError(
            f"The checkpoint '{origin.path}' has a {was} as its trunk, but this job a {kind}. Declare the same, or "
            f"name trunk in start_from.new."
        )
    if not says and (list(origin.before.towers) != list(names.towers) or new_towers(names.towers, origin.start.new)):
        raise ValueError(
            f"{kind} does not say which of its parameters belong to which task, so it starts from a trunk of the same "
            f"towers only: found {list(origin.before.towers)} in the checkpoint '{origin.path}', here "
            f"{list(names.towers)}. Say so in {kind}.task_parts, or name trunk in start_from.new."
        )


def _check_task_parts(origin: Origin, names: NetworkNames) -> None:
    there, here = origin.before.task_parts, names.task_parts
    if there is None or here is None:
        return
    other = [part for part in {**there, **here} if there.get(part) != here.get(part) and origin.loads(f"trunk.{part}")]
    if other:
        raise ValueError(
            f"The checkpoint '{origin.path}' has a trunk in which other parts belong to single tasks: {other}, so its "
            f"numbers would be taken for something else. Build the trunk as there, or name trunk in start_from.new."
        )


def check_columns(origin: Origin, names: NetworkNames) -> None:
    """Checks that each loaded part reads every feature in the columns in which it learnt it.

    Args:
        origin: The checkpoint.
        names: What this job's network is.

    Raises:
        ValueError: If one does not.
    """
    before, after, kept = origin.before.columns, names.columns, origin.kept(names.towers)
    parts = ["trunk", *(f"trunk.{tower}" for tower in kept)] if origin.loads("trunk") else []
    parts += [f"towers.{tower}" for tower in kept]
    parts += [part for part in after if part.startswith("sequences.") and part in before and origin.loads(part)]
    for part in parts if before else []:
        if moved := moved_columns(before, after, part):
            named = "trunk" if part.startswith("trunk") else part
            raise ValueError(
                f"The checkpoint '{origin.path}' has a part '{part}' that reads other columns: {moved}. What it has "
                f"learnt of one feature would meet another. Give tables, sequences and dense encoder the widths that "
                f"they had there, also those that start anew, or name {named} in start_from.new."
            )
