"""Whether what is taken from a checkpoint still stands for the same: shapes that fit are not enough."""

from __future__ import annotations

from collections.abc import Mapping

from torchrec_mtl.data.features import Features
from torchrec_mtl.data.meaning import differences, meanings, rows_of
from torchrec_mtl.training.checkpoint import Position
from torchrec_mtl.training.origin import Origin


def check_meaning(origin: Origin, features: Features, now: Position, encoder: bool = True) -> None:
    """Compares the features that loaded parts read; others may come and go.

    Args:
        origin: The checkpoint.
        features: This job's.
        now: What this run is: its vocabularies and the types of hashed columns.
        encoder: Whether the model encodes dense features.

    Raises:
        ValueError: If rows of a loaded table, or what a loaded trunk, encoder or attention block reads, mean something
            else.
    """
    before = origin.position.features
    if before is None:
        return
    for table in features.tables:
        if origin.loads(f"tables.{table.name}"):
            _check_table(origin, features, table.name, now)
    after = meanings(features)
    names = {after: before for before, after in origin.start.renamed("tables").items()}
    for part, kinds in (
        ("trunk", ("order of ", "table ", "dense feature ", "sequence ", "sparse feature ")),
        ("dense", ("order of dense", "dense feature ")),
        ("sequences", ("sequence ",)),
    ):
        if not origin.loads(part) or (part == "dense" and not encoder):
            continue
        anew = [f"table '{each.name}'" for each in features.tables if not origin.loads(f"tables.{each.name}")]
        here = {_renamed(what, names): _renamed(text, names) for what, text in after.items() if what.startswith(kinds)}
        there = {what: text for what, text in before.items() if what.startswith(kinds)}
        for what in list(here):  # what stands for what in a table that starts anew is free
            if any(what == table or here[what].endswith(table) for table in anew):
                there[what] = here[what]
        if part == "sequences":
            there = {what: text for what, text in there.items() if what in here}
        if changed := differences(there, here):
            raise ValueError(
                f"The checkpoint '{origin.path}' has a part '{part}' that reads other features: {changed}. Declare the "
                f"features as there, or name {part} in start_from.new."
            )


def _check_table(origin: Origin, features: Features, table: str, now: Position) -> None:
    """A row of a loaded table must stand for the same value, by at least one feature that both know."""
    names = {after: before for before, after in origin.start.renamed("tables").items()}
    readers = [each for each in features.ids if each.table_name == table]
    known = 0
    for feature in readers:
        after = _renamed(rows_of(feature), names)
        before = _way(origin.position.features or {}, feature.name)
        if before is None:
            continue
        known += 1
        changed = [] if before == after else [f"{before}, now {after}"]
        for what, there, here in (
            ("vocabulary", origin.position.vocabularies, now.vocabularies),
            ("type", origin.position.types, now.types),
        ):
            if there is not None and here is not None and there.get(feature.name) != here.get(feature.name):
                changed.append(f"{what} {there.get(feature.name, 'none')}, now {here.get(feature.name, 'none')}")
        if changed:
            raise ValueError(
                f"Table '{table}': the checkpoint '{origin.path}' gives values of '{feature.name}' other rows: "
                f"{'; '.join(changed)}. Declare the feature as there, or name tables.{table} in start_from.new."
            )
    if not known:
        raise ValueError(
            f"Table '{table}': the checkpoint '{origin.path}' knows none of the features that read it, "
            f"{[each.name for each in readers]}, so nothing tells that its rows stand for the same values. Call a "
            f"feature as there, or name tables.{table} in start_from.new."
        )


def _way(before: Mapping[str, str], feature: str) -> str | None:
    """How a column's values became rows there; ``None`` for one that was not there."""
    if found := before.get(f"sparse feature '{feature}'"):
        return found
    start = f"('{feature}', "
    texts = (text for what, text in before.items() if what.startswith("sequence ") and start in text)
    if (text := next(texts, None)) is None:
        return None
    quoted = text.split(start, 1)[1]
    return quoted[1:].split(f"{quoted[0]})", 1)[0]


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """With the checkpoint's names of tables."""
    for after, before in names.items():
        text = text.replace(f"table '{after}'", f"table '{before}'")
    return text
