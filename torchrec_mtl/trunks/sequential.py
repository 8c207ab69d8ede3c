"""What the trunks along a funnel share: the order of their towers is the order of the steps."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torchrec_mtl.trunks.trunk import Trunk

if TYPE_CHECKING:
    from torchrec_mtl.tasks.task import Task


class SequentialTrunk(Trunk, ABC):
    """A trunk whose later tasks read what earlier ones found; the base of such.

    The towers' order is the funnel's. It is checked against the tasks that are named like towers: one that is learnt
    inside a label space (``label_space="click"``) comes after the task of that label, and one of a continuous value
    after all that are not. Towers that a link multiplies along the funnel stand as in its ``of``, whether or not they
    have a task of their own. What neither ties stands as it is declared.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        out_features: Width of each task's vector, ``H``.

    Raises:
        ValueError: If a size is not positive; by :meth:`check_tasks`, if the tasks contradict the order.
    """

    def check_tasks(self, tasks: Mapping[str, Task | None], chains: Sequence[Sequence[str]] = ()) -> None:
        """Refuses an order that contradicts the tasks' label spaces or a chain, or goes on after a continuous task."""
        name, needs = type(self).__name__, _needs(tasks, chains)
        right = self._right_order(needs)
        for place, tower in enumerate(tasks):
            for earlier, why in needs[tower].items():
                if earlier not in list(tasks)[:place]:
                    raise ValueError(
                        f"{name} passes information from tower to tower in their order, but in {list(tasks)} tower "
                        f"'{tower}' does not come after '{earlier}', {why}. Declare the towers in the order {right}."
                    )

    def check_start(self, before: Sequence[str], after: Sequence[str], new: Collection[str] = ()) -> None:
        """Refuses a trunk whose steps are not the first of this one's, or the other way round: they read each other."""
        kept = [tower for tower in after if tower in before and tower not in new]
        if kept != list(before[: len(kept)]) or kept != list(after[: len(kept)]):
            anew = f", of which {list(new)} start anew" if new else ""
            raise ValueError(
                f"{type(self).__name__} passes information from tower to tower, so steps can be added and dropped at "
                f"its end only: the checkpoint's towers are {list(before)}, this job's {list(after)}{anew}. Keep the "
                f"order of the first ones and let none after a new one be kept, or declare the trunk new."
            )

    def _right_order(self, needs: Mapping[str, Mapping[str, str]]) -> list[str]:
        """The order nearest to the declared one: again and again the first tower that may come now."""
        order: list[str] = []
        while waiting := [tower for tower in needs if tower not in order]:
            ready = [tower for tower in waiting if needs[tower].keys() <= set(order)]
            if not ready:
                found = "; ".join(f"'{a}' after '{b}', {why}" for a in waiting for b, why in needs[a].items())
                raise ValueError(
                    f"{type(self).__name__}: no order of the towers fits their tasks: {found}. Correct the label "
                    f"spaces or the links."
                )
            order.append(ready[0])
        return order


def _needs(tasks: Mapping[str, Task | None], chains: Sequence[Sequence[str]]) -> dict[str, dict[str, str]]:
    """``{tower: {tower that must come before it: why}}``."""
    needs: dict[str, dict[str, str]] = {tower: {} for tower in tasks}
    known = {tower: task for tower, task in tasks.items() if task is not None}
    for tower, task in known.items():
        for other, earlier in known.items():
            if other != tower and earlier.label in task.spaces:
                needs[tower][other] = f"which predicts its label space '{earlier.label}'"
            elif task.continuous and not earlier.continuous:
                needs[tower][other] = "as a continuous task must"
    for chain in chains:
        for before, after in pairwise(chain):
            needs[after].setdefault(before, f"the step before it in {list(chain)}")
    return needs
