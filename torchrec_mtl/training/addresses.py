"""What each entry of a model's state is called, whatever the order of its towers: how two models are matched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from torchrec_mtl.data.meaning import differences
from torchrec_mtl.objective import MultiTaskObjective
from torchrec_mtl.training.columns import columns_of
from torchrec_mtl.trunks.task_parts import Label, TaskPart, place_of

BALANCER = "balancer"
_NAMED = ("tables", "towers", "sequences", "links")


@dataclass(frozen=True)
class NetworkNames:
    """Names of what a model's state counts by index.

    Args:
        towers: Towers, in the order of the trunk's vectors.
        trunk: Class of the trunk.
        links: Links, in the order in which they are computed.
        sequences: Sequences with one attention block for all towers.
        task_sequences: Sequences with a block a tower.
        layers: ``{part: its layers without weights}`` of trunk and towers, in words: activations, norms, dropout.
        columns: ``{part: [(feature, width), ...]}`` of what each part reads, in order: see
            :func:`~torchrec_mtl.training.columns.columns_of`; empty in older checkpoints.
        task_parts: ``{part of the trunk: kind of part}``, see :meth:`~torchrec_mtl.trunks.trunk.Trunk.task_parts`;
            ``None`` where the trunk does not say, and in older checkpoints.
        arguments: The trunk's, see :meth:`~torchrec_mtl.trunks.trunk.Trunk.arguments`; ``None`` in older checkpoints.
    """

    towers: Sequence[str]
    trunk: str = ""
    links: Sequence[str] = field(default_factory=list)
    sequences: Sequence[str] = field(default_factory=list)
    task_sequences: Sequence[str] = field(default_factory=list)
    layers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    task_parts: Mapping[str, str] | None = None
    arguments: Mapping[str, str] | None = None

    @staticmethod
    def of(objective: MultiTaskObjective) -> NetworkNames:
        """The names of a model."""
        heads, trunk, sequences = objective.model.heads, type(objective.model.trunk), objective.model.sequences
        said = objective.model.trunk.task_parts()
        parts = {f"towers.{name}": tower for name, tower in zip(heads.tower_names, heads.towers, strict=True)}
        return NetworkNames(
            towers=list(heads.tower_names),
            trunk=f"{trunk.__module__}.{trunk.__qualname__}",
            links=list(heads.names[len(heads.towers) :]),
            sequences=[] if sequences is None else list(sequences.attend.shared_names),
            task_sequences=[] if sequences is None else list(sequences.attend.per_task_names),
            layers={part: _layers(each) for part, each in {"trunk": objective.model.trunk, **parts}.items()},
            columns=columns_of(objective.model),
            task_parts=None if said is None else {part: type(how).__name__ for part, how in said.items()},
            arguments=dict(objective.model.trunk.arguments()),
        )

    def other_arguments(self, now: NetworkNames) -> str:
        """What of the trunk's arguments is another in a network, in words; empty if nothing is, or it is not known."""
        if self.arguments is None or now.arguments is None:
            return ""
        return differences(self.arguments, now.arguments)

    def renamed(self, towers: Mapping[str, str]) -> NetworkNames:
        """With other names of towers."""
        kinds = ("towers", "trunk")
        parts = {f"{kind}.{before}": f"{kind}.{after}" for before, after in towers.items() for kind in kinds}
        layers = {parts.get(part, part): each for part, each in self.layers.items()}
        columns = {parts.get(part, part): each for part, each in self.columns.items()}
        return replace(self, towers=[towers.get(name, name) for name in self.towers], layers=layers, columns=columns)


@dataclass(frozen=True)
class Address:
    """What an entry of a model's state is.

    Args:
        name: Its name, beginning with its part: ``tables.<table>``, ``dense``, ``sequences.<sequence>``, ``trunk``,
            ``towers.<tower>``, ``links.<link>`` or ``balancer``.
        owner: Tower that it belongs to whole; ``None`` if there is none.
        rows: ``{dimension: one label a row}`` of dimensions that run over towers.
    """

    name: str
    owner: str | None = None
    rows: Mapping[int, list[Label]] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """The part that it is counted to: ``towers.<tower>`` and the like, or ``trunk``, ``dense``, ``balancer``."""
        words = self.name.split(".")
        return ".".join(words[: 2 if words[0] in _NAMED else 1])


def address_of(entry: str, shape: Sequence[int], names: NetworkNames, parts: Mapping[str, TaskPart] | None) -> Address:
    """The address of an entry of an objective's state.

    Args:
        entry: Its name in the ``state_dict``.
        shape: Its shape.
        names: Names of what the state counts by index.
        parts: What the trunk says of its parameters.

    Raises:
        ValueError: If the trunk has an entry that is not as it says.
    """
    _, part, *rest = words = entry.split(".")
    if words[0] != "model":
        return Address(".".join([BALANCER, *words[1:]]))
    if part == "embeddings" or (part == "sequences" and rest[0] == "embeddings"):
        return Address(".".join(["tables", *([words[-2]] if words[-1] == "weight" else rest)]))
    if part == "trunk":
        place = place_of(".".join(rest), shape, parts or {}, names.towers)
        return Address(f"trunk.{place.name}", place.owner, place.rows)
    if part == "heads":
        kind, index, *rest = rest
        named = (names.towers if kind == "towers" else names.links)[int(index)]
        return Address(".".join([kind, named, *rest]), named if kind == "towers" else None)
    return _of_sequence(rest[1:], names) if part == "sequences" else Address(".".join([part, *rest]))


def _of_sequence(words: Sequence[str], names: NetworkNames) -> Address:
    """The address of ``shared.<index>...`` or ``per_task.<index>.<tower's index>...``."""
    kind, index, *rest = words
    if kind == "shared":
        return Address(".".join(["sequences", names.sequences[int(index)], *rest]))
    tower = names.towers[int(rest[0])]
    return Address(".".join(["sequences", names.task_sequences[int(index)], f"<{tower}>", *rest[1:]]), tower)


def _layers(part: nn.Module) -> list[str]:
    """Its layers without weights, in words, each once; a normalisation has a scale and a shift at most."""
    leaves = [each for each in part.modules() if not [*each.children()]]
    return sorted({repr(each) for each in leaves if all(entry.ndim < 2 for entry in each.state_dict().values())})


def inside(name: str, parts: Collection[str]) -> bool:
    """Whether a name is that of one of some parts, or lies in one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def table_entries(state: Iterable[str]) -> dict[str, str]:
    """``{table: its entry}`` of an objective's state."""
    kept = ("model.embeddings.", "model.sequences.embeddings.")
    return {name.split(".")[-2]: name for name in state if name.startswith(kept) and name.endswith(".weight")}
