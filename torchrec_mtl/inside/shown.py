"""What a network shows of itself: modules that weigh, modules that are weighed, and how they are wired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


class ShowsWeights(nn.Module):
    """Base of a module whose output is weights over N things, for each row: gates, attention.

    Shapes:
        Returns ``[B, T, N]``, or ``[B, N]`` where there is one reader; not negative, with sums of 1 over the last axis.
    """


class ShowsVectors(nn.Module):
    """Base of a module whose output is what is weighed: N experts.

    Shapes:
        Returns ``[B, N, H]``.
    """


class Softmax(ShowsWeights):
    """Softmax over the last axis, as a module, so that an attention's weights can be seen.

    Shapes:
        scores: ``[B, N]`` or ``[B, T, N]``; returned in the same shape.
    """

    def forward(self, scores: Tensor) -> Tensor:
        """Maps scores to weights with sums of 1."""
        return scores.softmax(-1)


@dataclass(frozen=True)
class Wiring:
    """Who reads whom at a level. Nothing of it needs to be said where every gate reads all experts, in their order.

    Args:
        experts: Whose each of the N experts is: the number of a task, or a name such as "shared". Where several
            children hold experts, they stand in the order in which the children were assigned.
        readers: Who each of the R rows of all the level's gates serves: the number of a task, or a name.
        columns: ``{child with gates: for each of its rows the numbers of the experts that its columns stand for}``; a
            child that is not named reads all experts.
        fixed: ``[R, N]``, weights that are the same for every row of a batch, which add to the gates' (or are all
            that there is).
    """

    experts: Sequence[int | str] | None = None
    readers: Sequence[int | str] | None = None
    columns: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    fixed: Tensor | None = None


@runtime_checkable
class Wired(Protocol):
    """A module, as a rule a trunk, that says how the levels below it are wired."""

    def wirings(self) -> dict[str, Wiring]:
        """``{level: wiring}``; a level is named as in :class:`~torchrec_mtl.inside.view.InsideView`, from this module.

        It is asked after the batches, so that learned weights are those of now.
        """


def names(numbers: Sequence[int | str], tasks: Sequence[str]) -> tuple[str, ...]:
    """Numbers of tasks by the tasks' names; what occurs several times is numbered: "engage 0", "engage 1"."""
    plain = [_name(each, tasks) for each in numbers]
    return tuple(f"{name} {plain[:i].count(name)}" if plain.count(name) > 1 else name for i, name in enumerate(plain))


def _name(number: int | str, tasks: Sequence[str]) -> str:
    if isinstance(number, str):
        return number
    return tasks[number] if number < len(tasks) else f"task {number}"
