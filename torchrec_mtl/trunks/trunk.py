"""The contract of every architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from torchrec_mtl.layout import Layout
from torchrec_mtl.trunks.task_parts import TaskPart

if TYPE_CHECKING:
    from torchrec_mtl.tasks.task import Task


class Trunk(nn.Module, ABC):
    """Maps one shared feature vector ``[B, D]`` to one vector per task ``[B, T, H]``.

    Where all tasks read the same vector, ``[B, 1, H]`` says so and spares the copies.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers that read the trunk, ``T``.
        out_features: Width of each task's vector, ``H``.

    Raises:
        ValueError: If a size is not positive.
    """

    keeps_tables_apart = False  # whether no task's gradient reaches features that the layout calls another task's own

    reads_towers = False  # whether a task's vector depends on what the towers before its own predict

    def __init__(self, in_features: int, num_tasks: int, out_features: int) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "num_tasks": num_tasks, "out_features": out_features}
        if min(sizes.values()) < 1:
            raise ValueError(f"{type(self).__name__}: every size must be at least 1, but found {sizes}.")
        self.in_features = in_features
        self.num_tasks = num_tasks
        self.out_features = out_features

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``, or to ``[B, 1, H]``."""

    def arrange(self, layout: Layout) -> None:
        """Tells the trunk where each feature stands in its input, once the model is put together.

        Most read the vector as a whole. Those that override it call it first.

        Raises:
            ValueError: If the layout has another width, a feature is missing that the trunk asks for by name, or towers
                have tables of their own, which the trunk would mix.
        """
        name = type(self).__name__
        if layout.width != self.in_features:
            raise ValueError(f"{name} reads {self.in_features} features, but the layout has {layout.width}.")
        if layout.own and not self.keeps_tables_apart:
            raise ValueError(
                f"{name} mixes all features, so every task would train the tables that are declared as own ones of "
                f"{list(layout.own)}. Take a trunk that keeps them apart, such as STEM, or leave them out."
            )

    def bind(self, towers: Mapping[str, nn.Module]) -> None:  # most have no use for it
        """Shows the trunk the towers that read its vectors, in their order, once the model is put together.

        Raises:
            ValueError: If the trunk cannot work with them.
        """

    def check_tasks(
        self, tasks: Mapping[str, Task | None], chains: Sequence[Sequence[str]] = ()
    ) -> None:  # most take tasks in any order
        """Shows the trunk what its towers predict, once tasks are known.

        Args:
            tasks: ``{tower: the served task of its name, or None}``, in the order of the towers.
            chains: Towers that a link multiplies along a funnel, in its order.

        Raises:
            ValueError: If the trunk cannot serve these tasks in this order.
        """

    def task_parts(self) -> Mapping[str, TaskPart] | None:
        """Which parameters and buffers belong to single tasks, so that the trunk can start from one of other tasks.

        Returns:
            ``{part: how the tasks stand in it}``, a part being the beginning of a name in the ``state_dict``, whole
            words between dots, ``*`` for any one; what is in no part is shared. ``None``, by default, if the trunk
            does not say: then it starts from a trunk of the same tasks in the same order only.

        Example::

            {"gates": Rows(), "towers": Listed()}  # gates.weight [T, ...]; towers.0.weight, towers.1.weight, ...
        """
        return None

    def arguments(self) -> Mapping[str, str]:  # most have none
        """Arguments that change what trained parameters compute, but no shape, in words: ``{argument: its value}``.

        A checkpoint keeps them: it is evaluated and resumed with the same ones only, and one that starts from it with
        others is told so. Activations, norms and dropout need not be among them.
        """
        return {}

    def check_start(
        self, before: Sequence[str], after: Sequence[str], new: Collection[str] = ()
    ) -> None:  # most take any others
        """Shows the trunk the tasks of the trunk that it is to start from, and its own.

        Args:
            before: Tasks there, by their names here.
            after: This trunk's.
            new: Those of them that start anew, also where there is one of the name.

        Raises:
            ValueError: If it cannot start from a trunk of such tasks.
        """
