"""Whether what is taken from a checkpoint still stands for the same: shapes that fit are not enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchrec_mtl.data.features import Features
from torchrec_mtl.data.meaning import differences, meanings, rows_of
from torchrec_mtl.data.table import Table
from torchrec_mtl.training.addresses import NetworkNames
from torchrec_mtl.training.origin import Origin
from torchrec_mtl.training.position import Position
from torchrec_mtl.training.readings import Readings, renamed


def check_meaning(
    origin: Origin, features: Features, now: Position, network: NetworkNames, encoder: bool = True
) -> None:
    """Compares the features that loaded parts read; others may come and go.

    Args:
        origin: The checkpoint.
        features: This job's.
        now: What this run is: its vocabularies, the types of hashed columns, and which features towers read alone.
        network: Names of this job's towers and sequences.
        encoder: Whether the model encodes dense features.

    Raises:
        ValueError: If rows of a loaded table, or what a loaded trunk, tower, encoder or attention block reads, mean
            something else.
    """
    if origin.position.features is None:
        return
    copies = origin.copied_features()
    words = renamed(origin.position.features, origin.start.renamed("tables"), copies, origin.start.renamed("towers"))
    for table in features.tables:
        if origin.loads(f"tables.{table.name}"):
            _check_rows(origin, table, words)
            _check_table(origin, features, table.name, now, words, copies)
    there = Readings(words, origin.before.towers, origin.before.task_sequences)
    alone = {what: text for what, text in (now.features or {}).items() if what.endswith("' alone")}
    here = Readings(meanings(features) | alone, network.towers, network.task_sequences)
    kept = origin.kept(network.towers)
    anew = [f"table '{table.name}'" for table in features.tables if not origin.loads(f"tables.{table.name}")]
    anew += [f"sequence '{each.name}'" for each in features.sequences if not origin.loads(f"sequences.{each.name}")]
    if origin.loads("trunk"):
        _compare(origin, "trunk", there.of_trunk(kept), here.of_trunk(kept), anew)
    for tower in kept:
        _compare(origin, f"towers.{tower}", there.of_tower(tower), here.of_tower(tower), anew)
    if origin.loads("dense") and encoder:
        _compare(origin, "dense", there.of_dense(), here.of_dense(), [])
    for name, text in here.of_sequences().items():
        if origin.loads(part := f"sequences.{name}"):
            before = there.of_sequences().get(name)
            _compare(
                origin, part, {} if before is None else {f"sequence '{name}'": before}, {f"sequence '{name}'": text}
            )


def _compare(
    origin: Origin, part: str, there: Mapping[str, str], here: Mapping[str, str], anew: Sequence[str] = ()
) -> None:
    """Refuses a loaded part that reads something else, but for what stands in tables that start anew."""
    free = {
        what
        for what, text in here.items()
        if what in anew or (what.startswith("sparse feature ") and any(f"{each}" in text for each in anew))
    }
    before, after = ({what: text for what, text in each.items() if what not in free} for each in (there, here))
    if changed := differences(before, after):
        raise ValueError(
            f"The checkpoint '{origin.path}' has a part '{part}' that reads other features: {changed}. Declare the "
            f"features as there, or name {part} in start_from.new."
        )


def _check_rows(origin: Origin, table: Table, words: Mapping[str, str]) -> None:
    """A loaded table has as many rows as there."""
    before = words.get(f"table '{table.name}'", "").partition(" rows")[0]
    if before and before != str(table.rows):
        raise ValueError(
            f"Table '{table.name}': the checkpoint '{origin.path}' has {before} rows of it, but this job {table.rows}. "
            f"Declare as many, or name tables.{table.name} in start_from.new."
        )


def _check_table(
    origin: Origin, features: Features, table: str, now: Position, words: Mapping[str, str], copies: Mapping[str, str]
) -> None:
    """A row of a loaded table must stand for the same value, by at least one feature that both know."""
    readers = [each for each in features.ids if each.table_name == table]
    before_names = {after: before for before, after in copies.items()}
    known = 0
    for feature in readers:
        after, before = rows_of(feature), _way(words, feature.name)
        if before is None:
            continue
        known += 1
        changed = [] if before == after else [f"{before}, now {after}"]
        name, column = before_names.get(feature.name, feature.name), feature.column_name
        for what, there, its, here, ours in (
            ("vocabulary", origin.position.vocabularies, name, now.vocabularies, feature.name),
            ("type", origin.position.types, column, now.types, column),
        ):
            if there is not None and here is not None and there.get(its) != here.get(ours):
                changed.append(f"{what} {there.get(its, 'none')}, now {here.get(ours, 'none')}")
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
