"""Checks of what tasks do not share: no feature for some towers only may reach another by a way round."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.layout import TaskFeatures

Only = Mapping[str, Sequence[str]]  # {feature: towers}


def readers_of(only: Only, towers: Sequence[str]) -> dict[str, list[str]]:
    """``{tower: the features that it reads besides}``.

    Raises:
        ValueError: If a feature is for no tower, or a tower is not there.
    """
    for feature, readers in only.items():
        if not readers:
            raise ValueError(f"'{feature}' is for some towers only, but none is named. Name some of {list(towers)}.")
        for tower in readers:
            if tower not in towers:
                raise ValueError(
                    f"'{feature}' is for tower '{tower}', which is not there. Found {list(towers)}"
                    f"{did_you_mean(tower, towers)}"
                )
    return {tower: [feature for feature, readers in only.items() if tower in readers] for tower in towers}


def checked_own(own: Mapping[str, Mapping[str, str]], towers: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """The copies in the order of the towers.

    Raises:
        ValueError: If a tower has none.
    """
    if own and set(own) != set(towers):
        raise ValueError(f"Own tables must be given for each tower {list(towers)}, but are for {list(own)}.")
    return {tower: own[tower] for tower in towers if tower in own}


def check_some_are_shared(shared: Sequence[int], only: Only) -> None:
    """Checks that a trunk has something to read.

    Raises:
        ValueError: If all is for some towers only.
    """
    if only and not shared:
        found = {feature: list(towers) for feature, towers in only.items()}
        raise ValueError(
            f"All features are for some towers only, {found}, so that the trunk has nothing to read. Leave at least "
            f"one of them to all towers."
        )


def check_not_copied(task_features: TaskFeatures) -> None:
    """Checks that what is for some towers only has no copies, which reach them all.

    Raises:
        ValueError: If it has.
    """
    for copies in task_features.own.values():
        for feature, copy in copies.items():
            for name in (feature, copy):
                if name in task_features.only:
                    raise ValueError(
                        f"'{name}' is for towers {list(task_features.only[name])} only, but '{feature}' has a table of "
                        f"its own for each tower ('{copy}', ...), and all towers read them all. Take '{name}' out of "
                        f"only, or the table of '{feature}' out of own_tables."
                    )


def check_asked(
    asks_for: Mapping[str, Sequence[str]], shared: Collection[str], towers: Sequence[str], only: Only
) -> None:
    """Checks that all towers that read a sequence may see what its attention asks for.

    Args:
        asks_for: ``{sequence: features of its query and user}``.
        shared: Sequences with one block for all towers.
        towers: Names of the towers.
        only: What is for some of them.

    Raises:
        ValueError: If a tower may not.
    """
    for sequence, asked in asks_for.items():
        readers = only.get(sequence, towers)
        for feature in asked:
            if others := [tower for tower in readers if tower not in only.get(feature, towers)]:
                raise ValueError(
                    f"'{feature}' is for towers {list(only[feature])} only, but sequence '{sequence}' has it as query "
                    f"or user, and towers {others} read the sequence. Take '{feature}' out of the sequence's query and "
                    f"user, take it out of only, or {_way_out(sequence, sequence in shared, only[feature])}."
                )


def _way_out(sequence: str, shared: bool, towers: Sequence[str]) -> str:
    readers = f"only: {{{sequence}: [{', '.join(towers)}]}}"
    if shared:
        return f"let the same towers alone read the sequence, {readers}"
    return f"give the sequence one attention block for all towers in place of one each, and {readers}"
