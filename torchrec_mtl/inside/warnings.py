"""Says in words what is wrong inside a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchrec_mtl.inside.figures import Level
from torchrec_mtl.inside.sums import TOP


@dataclass(frozen=True)
class Bounds:
    """Where a figure becomes a warning.

    Args:
        dead: An expert is dead if no gate gives it more than this share of an even share (1 / number of experts).
        polarised: A gate is polarised if its mean normalised entropy is below it, or if the share of rows with one
            weight above 0.95 is above ``1 - polarised``.
        alike: Experts do the same if their similarity is above it.

    Raises:
        ValueError: If one is outside ``[0, 1]``.
    """

    dead: float = 0.05
    polarised: float = 0.05
    alike: float = 0.99

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"Bounds: {name} must lie in [0, 1], but found {value}.")


def warnings_of(levels: Sequence[Level], bounds: Bounds = Bounds()) -> list[str]:
    """Dead experts, polarised gates, experts that do the same or say nothing: a sentence each; none if all is well."""
    return [
        text
        for level in levels
        for text in (*_dead(level, bounds), *_polarised(level, bounds), *_silent(level), *_alike(level, bounds))
    ]


def _dead(level: Level, bounds: Bounds) -> list[str]:
    return [
        f"{level.name}: expert '{name}' is dead: no gate gives it more than {use:.2%} of an even share (bound "
        f"{bounds.dead:.0%}). Try gate dropout, or fewer experts."
        for name, use in zip(level.experts, level.use, strict=True)
        if use < bounds.dead
    ]


def _polarised(level: Level, bounds: Bounds) -> list[str]:
    found = []
    gates = level.load if level.fixed is None else level.load - level.fixed
    for reader, load, entropy, top in zip(level.readers, gates, level.entropy, level.top, strict=True):
        if entropy < bounds.polarised or top > 1 - bounds.polarised:
            best = int(np.nanargmax(load))
            found.append(
                f"{level.name}: the gate of '{reader}' is polarised: entropy {entropy:.3f} of 1 (bound "
                f"{bounds.polarised:g}), {top:.1%} of the rows give one expert more than {TOP:g}; expert "
                f"'{level.experts[best]}' has {load[best]:.3f} of its weight. Try gate dropout, or a lower learning "
                f"rate for the gates."
            )
    return found


def _silent(level: Level) -> list[str]:
    if level.similarity is None:
        return []
    return [
        f"{level.name}: expert '{name}' is silent: its output is the same for every row. Try a lower learning rate, "
        f"normalisation, or an activation without a flat side."
        for name, own in zip(level.experts, level.similarity.diagonal(), strict=True)
        if np.isnan(own)
    ]


def _alike(level: Level, bounds: Bounds) -> list[str]:
    """Of each group of experts that are all like its first one, one sentence."""
    if level.similarity is None:
        return []
    found, told = [], set()
    for n, row in enumerate(level.similarity):
        like = [m for m in range(n + 1, len(row)) if row[m] > bounds.alike and m not in told]
        if n not in told and like:
            told.update(like)
            found.append(
                f"{level.name}: experts {[level.experts[i] for i in (n, *like)]} do the same: similarity to the first "
                f"at least {row[like].min():.4f} (bound {bounds.alike:g}). Try fewer experts, or dropout inside them."
            )
    return found
