"""Which of a trunk's parameters are whose: what a trunk says so that it can start from one of other tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Label = tuple[str | None, int]  # a task (None: all tasks share it) and the place among its rows


class Place(NamedTuple):
    """Where an entry of a trunk's state stands, whatever the number and order of its tasks.

    Args:
        name: The rest of its name, tasks by their names.
        owner: Task that it belongs to whole; ``None`` where all share it, or rows have owners of their own.
        rows: ``{dimension: one label a row}`` of dimensions that run over tasks.
    """

    name: str
    owner: str | None
    rows: dict[int, list[Label]]


class TaskPart(ABC):
    """How the tasks stand in a part of a trunk."""

    @abstractmethod
    def place(self, rest: Sequence[str], shape: Sequence[int], tasks: Sequence[str]) -> Place:
        """Places an entry of the part.

        Args:
            rest: What its name adds to the part's, cut at the dots.
            shape: Its shape.
            tasks: Names of the trunk's tasks, in order.

        Raises:
            ValueError: If the entry does not have what the tasks take.
        """


@dataclass(frozen=True)
class Rows(TaskPart):
    """Dimensions of every parameter of the part run over tasks: the first T * m rows are theirs, the rest is shared.

    Args:
        per_task: ``{dimension: rows a task, m}``.

    Example::

        Rows()  # [T, ...]
        Rows({0: 1, 1: 2})  # [T, 2 * T + shared, ...]
    """

    per_task: Mapping[int, int] = field(default_factory=lambda: {0: 1})

    def place(self, rest: Sequence[str], shape: Sequence[int], tasks: Sequence[str]) -> Place:
        """Labels the rows."""
        rows: dict[int, list[Label]] = {}
        for dimension, number in self.per_task.items():
            size, own = shape[dimension] if dimension < len(shape) else 0, len(tasks) * number
            if size < own:
                raise ValueError(
                    f"'{'.'.join(rest)}' of shape {list(shape)} has no {number} rows for each of the tasks "
                    f"{list(tasks)} in dimension {dimension}"
                )
            labels: list[Label] = [(tasks[row // number], row % number) for row in range(own)]
            rows[dimension] = labels + [(None, row) for row in range(size - own)]
        return Place(".".join(rest), None, rows)


@dataclass(frozen=True)
class Listed(TaskPart):
    """The part is a list (``nn.ModuleList`` or ``nn.ParameterList``) of m entries a task.

    Args:
        per_task: Entries a task, ``m``.
        first: Place of the task that has the first entry: 1 where the first task has none.
    """

    per_task: int = 1
    first: int = 0

    def place(self, rest: Sequence[str], shape: Sequence[int], tasks: Sequence[str]) -> Place:
        """Names the entry after its task."""
        if not (rest and rest[0].isdigit()):
            raise ValueError(f"'{'.'.join(rest)}' does not begin with a place in a list")
        index = int(rest[0])
        task = self.first + index // self.per_task
        if task >= len(tasks):
            raise ValueError(f"'{'.'.join(rest)}' is of no task: {list(tasks)} have {self.per_task} entries each")
        which = "" if self.per_task == 1 else f":{index % self.per_task}"
        return Place(".".join([f"<{tasks[task]}{which}>", *rest[1:]]), tasks[task], {})


@dataclass(frozen=True)
class Since(TaskPart):
    """The part is there from some task on, and belongs to it whole: with a trunk of fewer tasks it goes.

    Args:
        task: Place of the task.
    """

    task: int = 1

    def place(self, rest: Sequence[str], shape: Sequence[int], tasks: Sequence[str]) -> Place:
        """Gives the entry to the task."""
        if self.task >= len(tasks):
            raise ValueError(f"'{'.'.join(rest)}' needs {self.task + 1} tasks, but found {list(tasks)}")
        return Place(".".join(rest), tasks[self.task], {})


def experts_of(part: str, per_task: int = 1) -> dict[str, TaskPart]:
    """The parts of a module :class:`~torchrec_mtl.experts.Experts` whose experts stand task by task."""
    return {f"{part}.layers": Rows({0: per_task}), f"{part}.after.*": Listed(per_task)}


def place_of(name: str, shape: Sequence[int], parts: Mapping[str, TaskPart], tasks: Sequence[str]) -> Place:
    """Places an entry of a trunk's state.

    Args:
        name: Its name.
        shape: Its shape.
        parts: ``{part: how the tasks stand in it}``: see :meth:`~torchrec_mtl.trunks.trunk.Trunk.task_parts`.
        tasks: Names of the trunk's tasks, in order.

    Raises:
        ValueError: If the entry is not as its part says.
    """
    words = name.split(".")
    for part, how in parts.items():
        pattern = part.split(".")
        if len(pattern) <= len(words) and all(p in ("*", w) for p, w in zip(pattern, words, strict=False)):
            rest = how.place(words[len(pattern) :], shape, tasks)
            return rest._replace(name=".".join(filter(None, [*words[: len(pattern)], rest.name])))
    return Place(name, None, {})
