"""Watches the gates and experts of a network while it is evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchrec_mtl.inside.figures import Level, level_figures
from torchrec_mtl.inside.levels import Place, places_of, wirings_of
from torchrec_mtl.inside.sums import Sums, added, vector_sums, weight_sums

PIECE = 512  # rows of experts; of fewer the calls cost more than the arithmetic
HELD = 4096  # rows of gates, likewise


class InsideView:
    """Load and entropy of gates, and similarity of experts, over the batches that pass while it watches.

    It finds every :class:`~torchrec_mtl.experts.Gates` and :class:`~torchrec_mtl.experts.Experts` below a module by
    itself (any :class:`~torchrec_mtl.inside.shown.ShowsWeights` and
    :class:`~torchrec_mtl.inside.shown.ShowsVectors`), so a trunk of your own that is made of them is seen as ours are.
    What belongs together is a **level**: modules whose paths differ only in the last name that is no number, as
    ``levels.0.gates`` and ``levels.0.experts`` do. Modules may say more by ``wirings()``: see
    :class:`~torchrec_mtl.inside.shown.Wiring`.

    Sums stay on the device until :meth:`figures`; no batch waits for one. Gates are read on every row. Experts, whose
    products of all pairs cost more, are read on a sample of one row in ``stride``, in pieces of 512 or more: every
    ``stride``-th batch of up to 512 rows whole, every ``stride``-th row of large batches, and both between.

    Args:
        module: A trunk, or any module that holds one; also inside a sharded model.
        tasks: Names of the towers, in order.
        stride: Experts' similarity is read from one row in ``stride``.

    Raises:
        ValueError: If ``stride`` is not positive.

    Example::

        view = InsideView(model.trunk, model.heads.tower_names)
        with view.watch():
            for batch in batches:
                model(batch)
        for level in view.figures():
            print(level.name, level.readers, level.experts, level.load, level.entropy, level.similarity)
    """

    def __init__(self, module: nn.Module, tasks: Sequence[str] = (), stride: int = 8) -> None:
        if stride < 1:
            raise ValueError(f"InsideView: stride must be at least 1, but found {stride}.")
        self.module = module
        self.tasks = tuple(tasks)
        self.stride = stride
        self.places = places_of(module)
        self._vectors_of: dict[str, int] = {}
        for place in self.places.values():
            if not place.weighs:
                self._vectors_of[place.level] = self._vectors_of.get(place.level, 0) + 1
        self.reset()

    def reset(self) -> None:
        """Forgets what was seen."""
        self._weights: dict[str, Sums] = {}  # of each module that weighs
        self._held: dict[str, list[Tensor]] = {}  # weights that are not added yet
        self._vectors: dict[str, Sums] = {}  # of each level
        self._waiting: dict[str, dict[str, Tensor]] = {}  # a level's vectors until all of them are made
        self._batches: Counter[str] = Counter()  # of each level's vectors

    @contextmanager
    def watch(self, rows: Callable[[], int | None] = lambda: None) -> Iterator[InsideView]:
        """Counts every batch that passes through the module, in training or not; nothing is left on it afterwards.

        Args:
            rows: Asked at each batch for the number of its rows that count, the leading ones: padding follows them.
                ``None`` is all.
        """
        modules = dict(self.module.named_modules())
        hooks = [modules[path].register_forward_hook(self._hook(path, rows)) for path in self.places]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()
            self._waiting.clear()

    def _hook(self, path: str, rows: Callable[[], int | None]) -> Callable[..., None]:
        place = self.places[path]

        def seen(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                return  # TorchRec traces the model with stand-ins before its first batch
            self._add(path, place, output.detach(), rows())

        return seen

    def _add(self, path: str, place: Place, output: Tensor, rows: int | None) -> None:
        if place.weighs:
            self._weigh(path, (output if output.ndim == 3 else output.unsqueeze(1))[:rows])  # [B, T, N]
            return
        waiting = self._waiting.setdefault(place.level, {})
        waiting[path] = output
        if len(waiting) == self._vectors_of[place.level]:
            parts = [waiting[each] for each in self.places if each in waiting]  # as assigned, not as called
            waiting.clear()
            self._compare(place.level, parts, rows)

    def _weigh(self, path: str, weights: Tensor) -> None:
        """Adds a module's weights, small batches several at a time."""
        held = self._held.setdefault(path, [])
        held.append(weights if len(weights) >= HELD else weights.clone())  # the network may write into its own
        if sum(map(len, held)) >= HELD:
            self._add_held(path)

    def _add_held(self, path: str) -> None:
        held = self._held.pop(path)
        weights = held[0] if len(held) == 1 else torch.cat(held)
        self._weights[path] = added(self._weights.get(path), weight_sums(weights))

    def _compare(self, level: str, parts: Sequence[Tensor], rows: int | None) -> None:
        """Adds a level's vectors, if the batch is one of the sample's."""
        skip = min(self.stride, max(1, len(parts[0]) // PIECE))
        number = self._batches[level]
        self._batches[level] += 1
        if number % -(-self.stride // skip) == 0:
            parts = [part[:rows:skip] for part in parts]
            vectors = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # [B / skip, N, H]
            self._vectors[level] = added(self._vectors.get(level), vector_sums(vectors))

    def figures(self, group: dist.ProcessGroup | None = None) -> list[Level]:
        """What was seen, by all ranks together: every rank must ask, also one that saw no batch.

        Args:
            group: The ranks; by default all, where there is a process group.
        """
        for path in list(self._held):
            self._add_held(path)
        found = [({path: _moved(sums) for path, sums in part.items()}) for part in (self._weights, self._vectors)]
        if dist.is_available() and dist.is_initialized():
            everyone: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(everyone, found, group=group)
            found = [_stitched([each[i] for each in everyone]) for i in range(2)]
        weights, vectors = found
        wirings = wirings_of(self.module)
        levels = list(dict.fromkeys([*(place.level for place in self.places.values()), *wirings]))
        made = (
            level_figures(level, self.places, weights, vectors.get(level), wirings.get(level), self.tasks)
            for level in levels
        )
        return [level for level in made if level is not None]


def _moved(sums: Sums) -> Sums:
    return {name: value.cpu() for name, value in sums.items()}


def _stitched(parts: Sequence[dict[str, Sums]]) -> dict[str, Sums]:
    total: dict[str, Sums] = {}
    for part in parts:  # in the order of the ranks: the same sum on each
        for path, sums in part.items():
            total[path] = added(total.get(path), sums)
    return total
