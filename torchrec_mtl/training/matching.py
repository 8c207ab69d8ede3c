"""Which of a checkpoint's numbers go where in a model of other towers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from torchrec_mtl.training.addresses import BALANCER, Address, NetworkNames, address_of, inside
from torchrec_mtl.trunks.task_parts import Label, TaskPart

Shapes = Mapping[str, Sequence[int]]
Addresses = dict[str, tuple[Address, Sequence[int]]]


@dataclass(frozen=True)
class Piece:
    """An entry of the model's state and where its numbers come from.

    Args:
        entry: Its name in the ``state_dict``.
        address: What it is.
        shape: Its shape.
        source: Entry of the checkpoint's; ``None`` for an entry that starts anew.
        source_shape: The shape there.
        rows: ``{dimension: (rows here, rows there)}`` of dimensions that run over tasks; the others are taken whole.
    """

    entry: str
    address: Address
    shape: Sequence[int]
    source: str | None = None
    source_shape: Sequence[int] = ()
    rows: Mapping[int, tuple[list[int], list[int]]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the source is taken as it is."""
        same = all(here == there for here, there in self.rows.values())
        return self.source is not None and same and self.loaded == prod(self.shape) == prod(self.source_shape)

    @property
    def loaded(self) -> int:
        """Number of values that come from the checkpoint."""
        if self.source is None:
            return 0
        return prod(len(self.rows[i][0]) if i in self.rows else size for i, size in enumerate(self.shape))

    @property
    def crosses(self) -> bool:
        """Whether what tasks take from each other has come or gone: a dimension past the first, of other tasks."""
        return self.source is not None and any(
            dimension and (len(here) < self.shape[dimension] or len(there) < self.source_shape[dimension])
            for dimension, (here, there) in self.rows.items()
        )

    def copy(self, there: Tensor, here: Tensor) -> None:
        """Copies what is taken of the source."""
        if not self.shape:  # a scalar has no places
            here.copy_(there)
            return
        for dimension, (_, rows) in self.rows.items():
            there = there.index_select(dimension, torch.tensor(rows, dtype=torch.long))
        places = [
            torch.tensor(self.rows[i][0]) if i in self.rows else torch.arange(size) for i, size in enumerate(self.shape)
        ]
        if there.numel():
            here[torch.meshgrid(*(place.to(here.device) for place in places), indexing="ij")] = there.to(here)


@dataclass(frozen=True)
class Match:
    """A model and a checkpoint, entry by entry.

    Args:
        pieces: The model's entries.
        left: ``{part of the checkpoint: number of values}`` that nothing takes.
    """

    pieces: Sequence[Piece]
    left: Mapping[str, int]


def addresses(
    shapes: Shapes, names: NetworkNames, parts: Mapping[str, TaskPart] | None, tables: Mapping[str, str] | None = None
) -> Addresses:
    """``{entry: (address, shape)}`` of a state, with other names of tables where given.

    Raises:
        ValueError: If the trunk has an entry that is not as it says.
    """
    found = {}
    for entry, shape in shapes.items():
        address = address_of(entry, shape, names, parts)
        if tables and address.part in tables:
            address = Address(tables[address.part] + address.name[len(address.part) :])
        found[entry] = (address, shape)
    return found


def match(here: Addresses, there: Addresses, new: Collection[str], new_towers: Collection[str]) -> Match:
    """Finds for each entry of the model its numbers in the checkpoint.

    Args:
        here: The model's state.
        there: The checkpoint's, by the model's names.
        new: Parts that start anew.
        new_towers: Towers that start anew, with all that belongs to them.

    Raises:
        ValueError: If an entry that is not new is missing in the checkpoint or has another shape there.
    """
    known = {address.name: (entry, address, shape) for entry, (address, shape) in there.items()}
    if len(known) < len(there):
        twice = sorted(name for name, count in Counter(each.name for each, _ in there.values()).items() if count > 1)
        raise ValueError(f"holds {_some(twice)} more than once, by the names of this job")
    pieces, missing, other = [], [], []
    for entry, (address, shape) in here.items():
        anew = inside(address.name, [*new, BALANCER]) or address.owner in new_towers
        if anew or address.name not in known:
            pieces.append(Piece(entry, address, shape))
            missing += [] if anew else [address.name]
            continue
        source, its_address, its_shape = known[address.name]
        rows = {
            dimension: _rows(labels, its_address.rows[dimension], new_towers)
            for dimension, labels in address.rows.items()
        }
        lacking = {label for _, _, lacks in rows.values() for label in lacks}
        fits = len(shape) == len(its_shape) and all(
            its == size for i, (size, its) in enumerate(zip(shape, its_shape, strict=True)) if i not in rows
        )
        missing += [f"{address.name} of {task}" for task in sorted({t for t, _ in lacking if t is not None})]
        if not fits or any(task is None for task, _ in lacking) or _more_shared(address, its_address):
            other.append(f"{address.name}: {list(its_shape)}, here {list(shape)}")
        taken = {dimension: (ours, its) for dimension, (ours, its, _) in rows.items()}
        pieces.append(Piece(entry, address, shape, source, its_shape, taken))
    if missing:
        raise ValueError(f"does not hold {_some(missing)}, which would start at random")
    if other:
        raise ValueError(f"holds other shapes: {_some(other)}")
    if more := _more(here, there, new, new_towers):
        parts = list(dict.fromkeys(address.part for address in more))
        raise ValueError(
            f"holds more of {parts} than this job has: {_some([address.name for address in more])}. Build them as "
            f"there, or name them as new"
        )
    return Match(pieces, _left(pieces, there))


def _rows(
    here: Sequence[Label], there: Sequence[Label], new_towers: Collection[str]
) -> tuple[list[int], list[int], list[Label]]:
    """Rows that are taken, here and there, and those that are neither there nor new."""
    places = {label: row for row, label in enumerate(there)}
    taken = [row for row, label in enumerate(here) if label in places and label[0] not in new_towers]
    lacking = [label for label in here if label not in places and label[0] not in new_towers]
    return taken, [places[here[row]] for row in taken], lacking


def _more_shared(here: Address, there: Address) -> bool:
    """Whether the checkpoint's entry has shared rows, or rows of a kept task, that have no place here."""
    for dimension, labels in here.rows.items():
        tasks = {task for task, _ in labels}
        if any(label not in labels for label in there.rows[dimension] if label[0] is None or label[0] in tasks):
            return True
    return False


def _more(here: Addresses, there: Addresses, new: Collection[str], new_towers: Collection[str]) -> list[Address]:
    """Entries of the checkpoint that are shared or of a kept tower, and have no place in the part here that loads."""
    found = [address for address, _ in here.values()]
    names, towers = {address.name for address in found}, {address.owner for address in found}
    towers |= {task for address in found for labels in address.rows.values() for task, _ in labels}
    kept = {None, *towers} - set(new_towers)
    parts = {address.part for address in found if not inside(address.name, ["tables", BALANCER])}  # tables come and go
    more = [address for address, _ in there.values() if address.part in parts and address.name not in names]
    return [address for address in more if address.owner in kept and not inside(address.name, new)]


def _left(pieces: Sequence[Piece], there: Addresses) -> dict[str, int]:
    taken = {piece.source: piece.loaded for piece in pieces if piece.source is not None}
    left: dict[str, int] = {}
    for entry, (address, shape) in there.items():
        if rest := prod(shape) - taken.get(entry, 0):
            left[address.part] = left.get(address.part, 0) + rest
    return left


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{list(names[:5])}{more}"
