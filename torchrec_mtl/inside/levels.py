"""Finds what a network shows, and what of it belongs together."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from torchrec_mtl.inside.shown import ShowsVectors, ShowsWeights, Wired, Wiring


class Place(NamedTuple):
    """Where a module stands.

    Args:
        level: Its level: the path without its last name that is no number; "" for the module that is looked into.
        child: That name.
        weighs: Whether it shows weights; else vectors.
    """

    level: str
    child: str
    weighs: bool


def places_of(module: nn.Module) -> dict[str, Place]:
    """``{path: place}`` of everything that shows weights or vectors."""
    return {
        path: _place(path, isinstance(part, ShowsWeights))
        for path, part in module.named_modules()
        if isinstance(part, ShowsWeights | ShowsVectors)
    }


def wirings_of(module: nn.Module) -> dict[str, Wiring]:
    """``{level: wiring}`` as the modules themselves say."""
    found: dict[str, Wiring] = {}
    for path, part in module.named_modules():
        if isinstance(part, Wired):
            found |= {".".join(filter(None, (path, level))): wiring for level, wiring in part.wirings().items()}
    return found


def title_of(level: str, places: dict[str, Place]) -> str:
    """A level as it is shown: its path, or that of its one module where the path is a number or nothing."""
    if not level.replace(".", "").isdigit() and level:
        return level
    paths = [path for path, place in places.items() if place.level == level]
    return paths[0] if len(paths) == 1 and paths[0] else level or "trunk"


def _place(path: str, weighs: bool) -> Place:
    names = path.split(".")
    last = max((i for i, name in enumerate(names) if not name.isdigit()), default=None)
    if last is None:
        return Place(path, "", weighs)
    return Place(".".join(names[:last] + names[last + 1 :]), names[last], weighs)
