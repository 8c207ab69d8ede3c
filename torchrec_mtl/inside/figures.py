"""From sums to the figures of a level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchrec_mtl.inside.levels import Place, title_of
from torchrec_mtl.inside.shown import Wiring, names
from torchrec_mtl.inside.sums import Sums, similarity

UNWIRED = Wiring()


@dataclass(frozen=True, eq=False)
class Level:
    r"""What one level of a network does.

    Args:
        name: Its path.
        experts: Names of the N experts.
        readers: Names of the R gates: tasks, or what else is mixed for. None where nothing mixes the experts.
        load: ``[R, N]``, mean weight over rows; NaN where a gate does not read an expert.
        fixed: ``[R, N]``, the part of the load that is the same for every row, and no gate's; ``None`` where there is
            none, and rows of the load sum to 1.
        entropy: ``[R]``, mean over rows of :math:`-\sum_n g_n \ln g_n / \ln N_r` of a gate over :math:`N_r` experts: 0
            is a choice of one, 1 an even mixture. NaN for a gate over one, for fixed weights, and without rows.
        top: ``[R]``, share of the rows whose largest weight is above 0.95; NaN as for ``entropy``.
        similarity: ``[N, N]``: see :func:`~torchrec_mtl.inside.sums.similarity`; ``None`` where no experts are shown,
            or fewer than two rows of them.
        rows: Number of rows that were read of the gates, or of the experts where there are none.
    """

    name: str
    experts: tuple[str, ...]
    readers: tuple[str, ...]
    load: np.ndarray
    fixed: np.ndarray | None
    entropy: np.ndarray
    top: np.ndarray
    similarity: np.ndarray | None
    rows: int

    @property
    def use(self) -> np.ndarray:
        """``[N]``: an expert's largest weight in any gate, as a multiple of an even share of that gate. NaN: unread."""
        size = np.abs(self.load)
        total = np.nansum(size, axis=1, keepdims=True)
        even = np.where(total > 0, total, math.nan) / np.isfinite(size).sum(1, keepdims=True).clip(1)
        share = size / even
        if not len(share):
            return np.full(len(self.experts), math.nan)
        return np.where(np.isfinite(share).any(0), np.nan_to_num(share, nan=-math.inf).max(0), math.nan)

    def as_json(self) -> dict[str, Any]:
        """Plain figures by names; an expert that a gate does not read is left out of its load."""
        readers = {}
        for reader, load, entropy, top in zip(self.readers, self.load, self.entropy, self.top, strict=True):
            read = {name: float(weight) for name, weight in zip(self.experts, load, strict=True) if np.isfinite(weight)}
            readers[reader] = {"entropy": float(entropy), "top": float(top), "load": read}
        alike = None if self.similarity is None else [[float(each) for each in row] for row in self.similarity]
        return {"rows": self.rows, "experts": list(self.experts), "readers": readers, "similarity": alike}


def level_figures(
    level: str,
    places: Mapping[str, Place],
    weights: Mapping[str, Sums],
    vectors: Sums | None,
    wiring: Wiring | None,
    tasks: Sequence[str],
) -> Level | None:
    """A level's figures; ``None`` if nothing was seen of it.

    Raises:
        ValueError: If its wiring does not fit what was seen.
    """
    wiring = wiring or UNWIRED
    gates = {place.child: weights[path] for path, place in places.items() if place.level == level and path in weights}
    if not gates and vectors is None:
        return None
    title = title_of(level, dict(places))
    number = _number(wiring, gates, vectors)
    readers = wiring.readers if wiring.readers is not None else _readers(gates, tasks)
    if not gates and wiring.fixed is None:
        readers = ()
    experts = names(wiring.experts, tasks) if wiring.experts is not None else _numbered(number, vectors is not None)
    load, entropy, top, rows = _of_gates(title, gates, wiring, number)
    fixed = None if wiring.fixed is None else wiring.fixed.detach().double().cpu().numpy()
    if fixed is not None:
        load = fixed + np.nan_to_num(load) if gates else fixed
        missing = np.full(len(load) - len(entropy), math.nan)
        entropy, top = np.concatenate([entropy, missing]), np.concatenate([top, missing])
    found = None if vectors is None or vectors["rows"] < 2 else similarity(vectors).numpy()
    if vectors is not None and not gates:
        rows = int(vectors["rows"])
    if len(experts) != number or load.shape != (len(readers), number):
        raise ValueError(
            f"Inside view of '{title}': the wiring names {len(readers)} readers and {len(experts)} experts, but found "
            f"weights of shape {list(load.shape)} over {number} experts. Correct what wirings() says."
        )
    return Level(title, experts, names(readers, tasks), load, fixed, entropy, top, found, rows)


def _number(wiring: Wiring, gates: Mapping[str, Sums], vectors: Sums | None) -> int:
    if vectors is not None:
        return len(vectors["product"])
    if wiring.experts is not None:
        return len(wiring.experts)
    return max(sums["weight"].shape[1] for sums in gates.values())


def _readers(gates: Mapping[str, Sums], tasks: Sequence[str]) -> list[int | str]:
    """By default a gate for each task, or one for all."""
    readers: list[int | str] = []
    for child, sums in gates.items():
        number = len(sums["weight"])
        if number == len(tasks):
            readers += range(number)
        else:
            readers += ["all tasks"] if number == 1 else [f"{child} {i}" for i in range(number)]
    return readers


def _numbered(number: int, shown: bool) -> tuple[str, ...]:
    return tuple(f"{'expert' if shown else 'source'} {n}" for n in range(number))


def _of_gates(
    title: str, gates: Mapping[str, Sums], wiring: Wiring, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Load ``[R, N]``, entropy and top ``[R]``, and rows, of all gates of a level, one below the other."""
    loads, entropies, tops, rows = [np.zeros((0, number))], [np.zeros(0)], [np.zeros(0)], 0
    for child, sums in gates.items():
        count = float(sums["rows"]) or math.nan
        mean = sums["weight"].numpy() / count  # [T, n]
        width = mean.shape[1]
        columns = np.array(wiring.columns.get(child, [range(number)] * len(mean)))
        if columns.shape != mean.shape or (columns >= number).any():
            raise ValueError(
                f"Inside view of '{title}': the gates '{child}' give weights of shape {list(mean.shape)}, but read "
                f"{list(columns.shape)} of {number} experts. Say by wirings() which experts their columns stand for."
            )
        load = np.full((len(mean), number), math.nan)
        np.put_along_axis(load, columns, mean, axis=1)
        loads.append(load)
        several = width > 1
        entropy = np.abs(sums["entropy"].numpy()) / count  # of a choice rounding may leave a little below 0
        entropies.append(entropy / math.log(width) if several else np.full(len(mean), math.nan))
        tops.append(sums["top"].numpy() / count if several else np.full(len(mean), math.nan))
        rows = max(rows, int(sums["rows"]))
    return np.concatenate(loads), np.concatenate(entropies), np.concatenate(tops), rows
