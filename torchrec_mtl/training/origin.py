"""The checkpoint that a job starts from: what it holds, and whether that still means the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchrec_mtl.data.own_tables import copy_of
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.tasks.task import Task
from torchrec_mtl.training.addresses import NetworkNames, inside
from torchrec_mtl.training.checkpoint import find
from torchrec_mtl.training.freezing import new_towers
from torchrec_mtl.training.position import Position, read_position
from torchrec_mtl.training.serving_state import ServingState, label_of, meaning_of
from torchrec_mtl.training.start_from import StartFrom


@dataclass(frozen=True)
class Origin:
    """What is known of the checkpoint before it is loaded.

    Args:
        start: What the job says.
        path: The checkpoint.
        position: Where its training stood, and what its features meant.
        serving: Its tasks and their statistics.
        before: Names of its parts, by this job's names of towers.
    """

    start: StartFrom
    path: Path
    position: Position
    serving: ServingState
    before: NetworkNames

    @staticmethod
    def read(start: StartFrom) -> Origin:
        """Reads all but the numbers.

        Raises:
            ValueError: If there is no checkpoint, it does not name its towers, or a renamed part is not in it.
        """
        path = find(Path(start.checkpoint))
        serving, towers = ServingState.read(path), start.renamed("towers")
        if serving.network is None:
            raise ValueError(
                f"The checkpoint '{path}' does not name its towers: an older torchrec_mtl wrote it. Go on with its run "
                f"by train --resume with more epochs: the next checkpoint names them."
            )
        position = read_position(path)
        known = {"towers": list(serving.network.towers), "tables": sorted(position.sharding)}
        for kind, names in known.items():
            _check_renamed(kind, start.renamed(kind), names, path)
        start = start.with_renamed_copies(known["tables"], known["towers"])
        return Origin(start, path, position, serving, serving.network.renamed(towers))

    def copied_features(self) -> dict[str, str]:
        """``{name there: name here}`` of the features that renamed towers have copies of."""
        names = (self.position.features or {}).get("order of sparse", "").split(", ")
        return {
            copy_of(name, before): copy_of(name, after)
            for before, after in self.start.renamed("towers").items()
            for name in names
            if copy_of(name, before) in names
        }

    def kept(self, towers: Collection[str]) -> list[str]:
        """Those of a job's towers that start with what they were there.

        Raises:
            ValueError: If one is neither in the checkpoint nor new.
        """
        fresh = new_towers(towers, self.start.new)
        for name in towers:
            if name not in fresh and name not in self.before.towers:
                assert self.serving.network is not None
                raise ValueError(
                    f"Tower '{name}' is not in the checkpoint '{self.path}', whose towers are "
                    f"{list(self.serving.network.towers)}, so it would start at random. If it is to, name "
                    f"towers.{name} in start_from.new; if it was called otherwise there, in start_from.rename."
                )
        return [name for name in towers if name not in fresh]

    def loads(self, part: str) -> bool:
        """Whether a part comes from the checkpoint."""
        return not inside(part, self.start.new)

    def fitted(self, tasks: Sequence[Task], towers: Collection[str], frozen: Collection[str]) -> list[Task]:
        """The tasks, those of kept towers with the statistics that their outputs were learnt with.

        Raises:
            ValueError: If a frozen tower's task means something else now.
        """
        return [
            self._fitted(task, inside(f"towers.{task.name}", frozen)) if task.name in self.kept(towers) else task
            for task in tasks
        ]

    def _fitted(self, task: Task, frozen: bool) -> Task:
        name = self._name_there(task.name)
        before, after = self.serving.tasks.get(name), meaning_of(task)
        label = self.serving.labels.get(name, label_of(task))
        if frozen and label != label_of(task):
            raise ValueError(
                f"Task '{task.name}' was trained on {label}, but is on {label_of(task)} now, and its tower is frozen: "
                f"it would never learn the new label. Declare the label as it was, or let the tower train."
            )
        if before == after:
            values = self.serving.statistics.get(name)
            return task.with_statistics(values) if values else task
        if frozen and before is not None:
            raise ValueError(
                f"Task '{task.name}' was trained as {before}, but is declared as {after}, and its tower is frozen: its "
                f"outputs would be taken for something else. Declare the task as it was trained, or let the tower "
                f"train."
            )
        return task

    def _name_there(self, tower: str) -> str:
        return next((before for before, after in self.start.renamed("towers").items() if after == tower), tower)

    def changed_layers(self, network: NetworkNames) -> list[str]:
        """What is to be said of loaded parts with layers of the same shapes, but other activations, norms or dropout.

        Args:
            network: This job's.
        """
        parts = ["trunk"] if self.loads("trunk") else []
        found = []
        if parts and (changed := self.before.other_arguments(network)):
            found.append(f"The trunk was trained with other arguments: {changed}.")
        for part in [*parts, *(f"towers.{name}" for name in self.kept(network.towers))]:
            before, after = self.before.layers.get(part), network.layers.get(part)
            if before is not None and after is not None and list(before) != list(after):
                found.append(f"Part '{part}' was trained with {list(before)}, and has {list(after)} now.")
        return found

    def changed_tasks(self, tasks: Sequence[Task], towers: Collection[str]) -> list[str]:
        """What is to be said of tasks whose kept tower was trained as that of another kind."""
        kept = self.kept(towers)
        found = []
        for task in tasks:
            name = self._name_there(task.name)
            before = self.serving.tasks.get(name)
            if task.name in kept and before not in (None, meaning_of(task)):
                found.append(f"Task '{task.name}' was trained as {before}, and is {meaning_of(task)} now.")
            label = self.serving.labels.get(name)
            if task.name in kept and label not in (None, label_of(task)):
                found.append(f"Task '{task.name}' was trained on {label}, and is on {label_of(task)} now.")
        return found


def _check_renamed(kind: str, renamed: Mapping[str, str], known: Sequence[str], path: Path) -> None:
    for before, after in renamed.items():
        if before not in known:
            raise ValueError(
                f"start_from.rename: the checkpoint '{path}' has no {kind} '{before}'. Found {list(known)}"
                f"{did_you_mean(before, known)}"
            )
        if after in known and after not in renamed:
            raise ValueError(
                f"start_from.rename: {kind}.{before} becomes {kind}.{after}, but the checkpoint '{path}' has another "
                f"of that name. Rename that one too, for instance {kind}.{after}: {kind}.{after}_before."
            )
