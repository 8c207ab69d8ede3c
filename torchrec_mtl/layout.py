"""Where each feature stands in the vector that a trunk reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchrec_mtl.hints import did_you_mean


@dataclass(frozen=True)
class TaskFeatures:
    """Which features tasks do not share.

    Args:
        only: ``{feature: towers}``: features that no other tower sees. They leave the vector that the trunk reads, and
            join what it gives to each of these towers. A feature is a sparse feature, a dense column, a sequence, or
            "dense" for all dense columns.
        own: ``{tower: {feature: its copy}}``: features whose copy has a table that this tower alone trains, for trunks
            that keep tables apart (:class:`~torchrec_mtl.trunks.stem.STEM`).
        dense: Names of the dense columns, in the order of the batch; needed to speak of one of them.
    """

    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    dense: Sequence[str] = ()


ALL_SHARED = TaskFeatures()


@dataclass(frozen=True)
class Layout:
    """Where each feature stands in a vector ``[B, D]``: the same wherever TorchRec puts the tables.

    Args:
        columns: ``{feature: its columns, ascending}``; "dense" has those of all dense features.
        own: ``{tower: {feature: its copy}}``, see :class:`TaskFeatures`.

    Example::

        Layout({"dense": (0, 1), "shop": (2, 3, 4, 5)}).of(["shop"], "PEPNet: domain")  # (2, 3, 4, 5)
    """

    columns: Mapping[str, tuple[int, ...]]
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Width of the vector, ``D``."""
        return len({column for columns in self.columns.values() for column in columns})

    def of(self, names: Iterable[str], asker: str) -> tuple[int, ...]:
        """The columns of some features, ascending.

        Args:
            names: Features.
            asker: Who asks, for the error's text.

        Raises:
            ValueError: If a name is unknown.
        """
        found: set[int] = set()
        for name in names:
            if name not in self.columns:
                hint = did_you_mean(name, self.columns)
                raise ValueError(
                    f"{asker}: '{name}' is no part of the feature vector. Found {list(self.columns)}{hint}"
                )
            found.update(self.columns[name])
        return tuple(sorted(found))

    def but(self, columns: Iterable[int]) -> tuple[int, ...]:
        """All other columns, ascending."""
        return tuple(sorted({*range(self.width)} - {*columns}))


def runs(columns: Sequence[int]) -> list[slice]:
    """Ascending columns as the fewest slices."""
    found: list[slice] = []
    for column in columns:
        if found and found[-1].stop == column:
            found[-1] = slice(found[-1].start, column + 1)
        else:
            found.append(slice(column, column + 1))
    return found


def take(x: Tensor, slices: Sequence[slice]) -> Tensor:
    """Some columns of ``[B, D]``, by slices, which have a cheaper backward than indices."""
    if len(slices) == 1:
        return x[:, slices[0]]
    return torch.cat([x[:, each] for each in slices], dim=1) if slices else x[:, :0]
