"""Behaviour sequences, as they are declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec_mtl.data.feature import SparseFeature
from torchrec_mtl.names import check_name


@dataclass(frozen=True)
class BehaviourSequence:
    """What a user did, step by step: list columns of equal length in every row, the oldest step first.

    Args:
        name: Name of the sequence.
        items: Columns that carry the content of a step: item, shop, brand, category.
        properties: Columns that describe the behaviour and steer the attention: behaviour type, scenario, time gap.
        query: Sparse features that describe the candidate, one for each item column and in that order; a pair usually
            shares its table. None where the attention asks for no candidate.
        user: Sparse features that describe the user, for blocks that read them.
        max_length: Steps that are read: the last ones.

    Raises:
        ValueError: If its name contains a dot, there is no item column, a name occurs twice, the query does not mirror
            the items, or ``max_length`` is not positive.
    """

    name: str
    items: Sequence[SparseFeature]
    properties: Sequence[SparseFeature] = field(default_factory=list)
    query: Sequence[str] = field(default_factory=list)
    user: Sequence[str] = field(default_factory=list)
    max_length: int = 50

    def __post_init__(self) -> None:
        check_name("Sequence", self.name)
        names = [column.name for column in self.columns]
        if not self.items:
            raise ValueError(f"Sequence '{self.name}' needs at least one item column, but items is empty.")
        if len(set(names)) != len(names):
            raise ValueError(f"Sequence '{self.name}': columns must differ, but found {names}.")
        if self.query and len(self.query) != len(self.items):
            raise ValueError(
                f"Sequence '{self.name}': query must name one feature of the candidate for each item column "
                f"{[column.name for column in self.items]}, in their order, but found {list(self.query)}."
            )
        if self.max_length < 1:
            raise ValueError(f"Sequence '{self.name}': max_length must be at least 1, but found {self.max_length}.")

    @property
    def columns(self) -> list[SparseFeature]:
        """All its list columns: items, then properties."""
        return [*self.items, *self.properties]
