"""What each part of a model reads, from the words that a checkpoint keeps of its features."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchrec_mtl.data.own_tables import copy_of

_TABLE = re.compile(r"table '([^']*)'")
_KINDS = {"dense": "dense feature", "sparse": "sparse feature", "sequences": "sequence"}
_SPARSE = re.compile(r"sparse feature '([^']*)'")


@dataclass(frozen=True)
class Readings:
    """The features of a model, in words.

    Args:
        words: ``{what: in words}``, see :func:`~torchrec_mtl.data.meaning.meanings`, and ``'<feature>' alone``.
        towers: Names of the towers.
        task_sequences: Sequences whose vectors towers read beside the trunk's, in order.
    """

    words: Mapping[str, str]
    towers: Sequence[str]
    task_sequences: Sequence[str] = ()

    @property
    def alone(self) -> dict[str, list[str]]:
        """``{feature: towers that alone read it}``."""
        end = "' alone"
        return {what[1 : -len(end)]: ast.literal_eval(text) for what, text in self.words.items() if what.endswith(end)}

    def copies(self, tower: str) -> list[str]:
        """A tower's own copies of features, in order."""
        names = self._order("sparse")
        return [copy for copy in (copy_of(name, tower) for name in names) if copy in names]

    def of_trunk(self, kept: Sequence[str]) -> dict[str, str]:
        """What the trunk reads, for all and for towers that are kept alone."""
        copies = {copy for tower in self.towers for copy in self.copies(tower)}
        apart = {*self.alone, *copies, *self.task_sequences}
        names = {kind: [name for name in self._order(kind) if name not in apart] for kind in _KINDS}
        if "dense" in apart:
            names["dense"] = []
        found = {f"order of {kind}": ", ".join(each) for kind, each in names.items()}
        for tower in kept:
            if own := self.copies(tower):
                found[f"copies of tower '{tower}'"] = ", ".join(own)
                names["sparse"] = [*names["sparse"], *own]
        return found | self._in_words(names)

    def of_tower(self, tower: str) -> dict[str, str]:
        """What a tower reads beside the trunk's vector."""
        mine = {name for name, towers in self.alone.items() if tower in towers}
        names = {kind: [name for name in self._order(kind) if name in mine] for kind in _KINDS}
        if "dense" in mine:
            names["dense"] = self._order("dense")
        order = [name for kind in _KINDS for name in names[kind]]
        found = {f"features of tower '{tower}' alone": ", ".join(order) or "none"}
        found["sequences of each tower"] = ", ".join(self.task_sequences) or "none"
        return found | self._in_words(names | {"sequences": []})

    def of_sequences(self) -> dict[str, str]:
        """``{sequence: in words}``."""
        names = self._order("sequences")
        return {name: self.words[f"sequence '{name}'"] for name in names}

    def of_dense(self) -> dict[str, str]:
        """What the dense encoder reads."""
        return {
            what: text for what, text in self.words.items() if what.startswith(("order of dense", "dense feature "))
        }

    def _in_words(self, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
        whats = [f"{_KINDS[kind]} '{name}'" for kind, each in names.items() for name in each]
        found = {what: self.words.get(what, "none") for what in whats}
        tables = dict.fromkeys(table for text in found.values() for table in _TABLE.findall(text))
        return found | {what: self.words[what] for what in (f"table '{name}'" for name in tables) if what in self.words}

    def _order(self, kind: str) -> list[str]:
        """Names in the order in which a vector holds them: sparse features table by table."""
        text = self.words.get(f"order of {kind}", "")
        names = text.split(", ") if text else []
        if kind != "sparse":
            return names
        tables = [name for what in self.words for name in _TABLE.findall(what) if what == f"table '{name}'"]
        stepwise = {table for text in self.of_sequences().values() for table in _TABLE.findall(text)}

        def place(name: str) -> tuple[bool, int]:
            (table,) = _TABLE.findall(self.words[f"sparse feature '{name}'"])[:1]
            return table in stepwise, tables.index(table) if table in tables else 0

        return sorted(names, key=place)


def renamed(
    words: Mapping[str, str], tables: Mapping[str, str], copies: Mapping[str, str], towers: Mapping[str, str]
) -> dict[str, str]:
    """Words by other names, all in one pass, so that names can be swapped.

    Args:
        words: ``{what: in words}``.
        tables: ``{name there: name here}`` of tables.
        copies: The same of copied features.
        towers: The same of towers.
    """

    def table(text: str) -> str:
        return _TABLE.sub(lambda found: f"table '{tables.get(found[1], found[1])}'", text)

    after = {}
    for what, text in words.items():
        if what.endswith("' alone"):
            after[what] = f"{[towers.get(name, name) for name in ast.literal_eval(text)]}"
        elif what == "order of sparse":
            after[what] = ", ".join(copies.get(name, name) for name in text.split(", "))
        else:
            name = _SPARSE.sub(lambda found: f"sparse feature '{copies.get(found[1], found[1])}'", what)
            after[table(name)] = table(text)
    return after
