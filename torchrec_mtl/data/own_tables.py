"""Own tables: for each tower a copy of a table beside the shared one, which that tower alone trains.

A copy has the name of its table and of its tower, ``brand:ctr``, and so have the features in it; they read the columns
of the features that they copy and map them to rows alike, by the same hash, vocabulary or boundaries. A copy is a table
as any other: it has its place in checkpoints, and its sharding can be constrained by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torchrec_mtl.data.feature import SparseFeature
from torchrec_mtl.data.features import Features

Choice = TypeVar("Choice")


def with_own_tables(features: Features, towers: Sequence[str]) -> Features:
    """The declarations with each tower's copies of ``features.own_tables`` behind them.

    Args:
        features: What is declared; if the copies are there already, it is returned as it is.
        towers: Names of the towers.

    Raises:
        ValueError: If a copy's name is taken, or a name cannot be part of one.

    Example::

        features = Features([Table("brand", 10)], [SparseFeature("brand")], own_tables=["brand"])
        [table.name for table in with_own_tables(features, ["ctr", "cvr"]).tables]  # brand, brand:ctr, brand:cvr
    """
    copied = _copied(features)
    names = {feature.name for feature in features.sparse}
    if names.issuperset(copy_of(feature.name, tower) for feature in copied for tower in towers):
        return features
    for name in [*features.own_tables, *towers]:
        if "." in name or "@" in name:
            raise ValueError(f"'{name}' names a table of its own, and TorchRec takes no '.' and '@' there. Rename it.")
    tables = [table for table in features.tables if table.name in features.own_tables]
    return replace(
        features,
        tables=[*features.tables, *(replace(t, name=copy_of(t.name, tower)) for tower in towers for t in tables)],
        sparse=[
            *features.sparse,
            *(
                replace(
                    each,
                    name=copy_of(each.name, tower),
                    table=copy_of(each.table_name, tower),
                    column=each.column_name,
                )
                for tower in towers
                for each in copied
            ),
        ],
    )


def own_features(features: Features, towers: Sequence[str]) -> dict[str, dict[str, str]]:
    """``{tower: {feature: its copy}}`` of ``features.own_tables``; empty without any."""
    copied = [feature.name for feature in _copied(features)]
    return {tower: {name: copy_of(name, tower) for name in copied} for tower in towers} if copied else {}


def inherited(choices: Mapping[str, Choice], features: Features, towers: Sequence[str]) -> dict[str, Choice]:
    """``{table: choice}`` where a copy has its own choice, or that of its table."""
    copies = {copy_of(table, tower): table for table in features.own_tables for tower in towers}
    return {copy: choices[table] for copy, table in copies.items() if table in choices} | dict(choices)


def copy_of(name: str, tower: str) -> str:
    """The name of a tower's copy of a table or feature."""
    return f"{name}:{tower}"


def _copied(features: Features) -> list[SparseFeature]:
    """Features of the impression whose table each tower has a copy of, in the order in which they are looked up."""
    return [each for table in features.own_tables for each in features.sparse if each.table_name == table]
