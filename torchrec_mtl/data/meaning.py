"""What trained rows and numbers stand for, in words: they are compared before a checkpoint is used."""

from __future__ import annotations

from collections.abc import Mapping

from torchrec_mtl.data.columns import is_text, item_type
from torchrec_mtl.data.feature import SparseFeature
from torchrec_mtl.data.features import Features
from torchrec_mtl.data.source import Source


def meanings(features: Features) -> dict[str, str]:
    """``{what: in words}`` of all that a change of would give trained parameters another meaning, shapes unchanged.

    Vocabularies are not among it: they have fingerprints of their own. Nor is what an id outside its table is.
    """
    found = {f"table '{table.name}'": f"{table.rows} rows, pooled by {table.pooling}" for table in features.tables}
    found |= {f"sparse feature '{each.name}'": rows_of(each) for each in features.sparse}
    found |= {f"dense feature '{each.name}'": f"fill {each.fill}" for each in features.dense}
    for each in features.sequences:
        found[f"sequence '{each.name}'"] = (
            f"the last {each.max_length} steps; items {[(step.name, rows_of(step)) for step in each.items]}; "
            f"properties {[(step.name, rows_of(step)) for step in each.properties]}; query {list(each.query)}; "
            f"user {list(each.user)}"
        )
    for kind in ("sparse", "dense", "sequences"):
        found[f"order of {kind}"] = ", ".join(each.name for each in getattr(features, kind))
    return found


def rows_of(feature: SparseFeature) -> str:
    """What a row of a feature's table stands for, in words."""
    way = "by vocabulary" if feature.vocabulary is not None else feature.numbering
    column = "" if feature.column_name == feature.name else f", column '{feature.column_name}'"
    return f"{way}, table '{feature.table_name}'{column}"


def hashed_types(source: Source) -> dict[str, str]:
    """``{column: "strings" or "integers"}`` of hashed columns: the string "5" and the number 5 have different rows."""
    managed = source.converter.features.managed_tables
    hashed = [
        each.column_name
        for each in source.converter.features.ids
        if each.out_of_range == "hash" or each.table_name in managed
    ]
    return {name: "strings" if is_text(item_type(source.types[name])) else "integers" for name in hashed}


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What has changed, in words; empty if nothing has."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return "; ".join(f"{name}: {before.get(name, 'none')}, now {after.get(name, 'none')}" for name in changed)


def check_same_types(splits: Mapping[str, Source]) -> None:
    """Checks that a hashed column has values of one kind in all splits.

    Raises:
        ValueError: If one has not.
    """
    types = {split: hashed_types(source) for split, source in splits.items()}
    for split, found in types.items():
        for column, kind in found.items():
            if kind != (expected := types["train"][column]):
                raise ValueError(
                    f"Column '{column}' holds {expected} in the training split, but {kind} in the {split} split. It is "
                    f"hashed, and a number has another row than its digits: give it one type in all files."
                )
