"""What a checkpoint carries beside the network: statistics of tasks and calibrators, as JSON that a person can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from torchrec_mtl.calibration.calibrator import Calibrator
from torchrec_mtl.calibration.saved import KEY, described, load_calibrators
from torchrec_mtl.json_file import write_whole
from torchrec_mtl.tasks.task import Task
from torchrec_mtl.training.addresses import NetworkNames

SERVING = "serving.json"


@dataclass(frozen=True)
class ServingState:
    """Numbers that turn outputs into what is served; small, so they stay out of the model's sharded state.

    Args:
        statistics: ``{task: what its fit found}``, in every checkpoint.
        calibrators: ``{tower: calibrator}``, in the last checkpoint of a finished training.
        tasks: ``{task: what its outputs mean}``, as declared: see :func:`meaning_of`; in every checkpoint.
        labels: ``{task: what it was trained on}``: see :func:`label_of`; empty in older checkpoints.
        network: Names of what the model's state counts by index; ``None`` in older checkpoints.
    """

    statistics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    network: NetworkNames | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def read(checkpoint: Path) -> ServingState:
        """The state beside a checkpoint's model; an empty one where there is none, as in older checkpoints.

        Raises:
            ValueError: If the file is damaged.
        """
        file = checkpoint / SERVING
        if not file.exists():
            return ServingState()
        try:
            found = json.loads(file.read_text())
            statistics, tasks = dict(found.get("statistics", {})), dict(found.get("tasks", {}))
            labels = dict(found.get("labels", {}))
            network = NetworkNames(**found["network"]) if found.get("network") else None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Cannot read the checkpoint at '{checkpoint}': {SERVING} is damaged ({error})."
            ) from error
        return ServingState(statistics, load_calibrators(file), tasks, network, labels)

    def write(self, checkpoint: Path) -> None:
        """Writes the state, whole or not at all."""
        calibrators = {name: described(each) for name, each in self.calibrators.items()}
        statistics = {name: dict(values) for name, values in self.statistics.items()}
        network = None if self.network is None else asdict(self.network)
        says = {"network": network, "tasks": dict(self.tasks), "labels": dict(self.labels)}
        content = {**says, "statistics": statistics, KEY: calibrators}
        write_whole(checkpoint / SERVING, content)

    def check_network(self, checkpoint: Path, now: NetworkNames) -> None:
        """Checks that a trunk is built with the arguments that the checkpoint's was trained with.

        Raises:
            ValueError: If it is not.
        """
        if self.network is not None and (changed := self.network.other_arguments(now)):
            raise ValueError(
                f"The checkpoint '{checkpoint}' was trained with other arguments of the trunk: {changed}. Give those "
                f"that it was trained with, or train anew."
            )

    def restored(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks with the statistics that they were trained with.

        Raises:
            ValueError: If a task was trained as another kind or with other arguments, or cannot take them.
        """
        for task in tasks:
            before, after = self.tasks.get(task.name), meaning_of(task)
            if before not in (None, after):
                raise ValueError(
                    f"Task '{task.name}' was trained as {before}, but is declared as {after}: its outputs would be "
                    f"taken for something else. Declare the task as it was trained."
                )
        return [self._restored(task) for task in tasks]

    def _restored(self, task: Task) -> Task:
        values = self.statistics.get(task.name)
        if not values:
            return task
        try:
            return task.with_statistics(values)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Task '{task.name}': {type(task).__name__} cannot take the statistics that the checkpoint carries, "
                f"{dict(values)} ({error}). Declare the task as it was trained."
            ) from error

    def note(self, wanted: Mapping[str, Calibrator]) -> str | None:
        """What is applied, beside what the job file says; ``None`` where neither says anything.

        Args:
            wanted: ``{tower: calibrator}`` as the job file says.
        """
        says, carries = _kinds(wanted), _kinds(self.calibrators)
        if not says and not carries:
            return None
        applied = ", ".join(f"{name} by {each}" for name, each in self.calibrators.items()) or "nothing"
        differs = f" The job file says {says or 'nothing'}; the checkpoint counts." if says != carries else ""
        return f"Calibrated, as the checkpoint says: {applied}.{differs}"


def meaning_of(task: Task) -> str:
    """Kind and arguments of a task, without those that only say what it is trained or measured on."""
    free = {"name", "label", "label_space", "weight", "sample_weight"}
    arguments = ", ".join(f"{each.name}={getattr(task, each.name)!r}" for each in fields(task) if each.name not in free)
    return f"{type(task).__name__}({arguments})"


def label_of(task: Task) -> str:
    """The label of a task, and the rows that it is trained on."""
    space = [task.label_space] if isinstance(task.label_space, str) else list(task.label_space or [])
    return f"label {list(task.columns)}{f' where {space} are 1' if space else ''}"


def _kinds(calibrators: Mapping[str, Calibrator]) -> dict[str, str]:
    return {name: type(each).__name__ for name, each in calibrators.items()}
