"""Classes by import path, and errors that name what is there."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from torchrec_mtl.hints import did_you_mean

MOST = 30  # torch.nn has hundreds of classes, which nobody would read


def found(place: str, path: str, base: type) -> Any:
    """What a class path names, or ``None`` where the parser must say: of a name that several classes bear.

    Args:
        place: Where it stands in the job, for the error's text.
        path: Import path, or the bare name of a subclass of ``base`` that has been imported.
        base: What is expected there, for the candidates that an error names; ``object`` where that is unknown.

    Raises:
        ValueError: If there is no such module, or nothing of this name in it.
    """
    module, _, name = path.rpartition(".")
    if not module:
        return _bare(place, path, base)
    holder = _holder(place, module)
    if holder is None or hasattr(holder, name):
        return getattr(holder, name, None)
    raise ValueError(_no_class(f"{place}: '{module}' has no '{name}'", name, _classes(holder, base)))


def _bare(place: str, name: str, base: type) -> Any:
    if base is object:
        return None
    classes = {*_below(base)}
    named = [each for each in classes if each.__name__ == name]
    if named:
        return named[0] if len(named) == 1 else None
    public = sorted({each.__name__ for each in classes if not inspect.isabstract(each) and each.__name__[0] != "_"})
    text = f"{place}: no {base.__name__} is called '{name}' (a class of your own needs its module: my_package.{name})"
    raise ValueError(_no_class(text, name, public))


def _below(base: type) -> Iterator[type]:
    yield base
    each: type
    for each in type.__subclasses__(base):
        yield from _below(each)


def _holder(place: str, path: str) -> Any:
    """The module of a path, or the class in which another is nested; ``None`` if it fails while it is imported."""
    holder: Any = None
    for i, part in enumerate(parts := path.split(".")):
        name = ".".join(parts[: i + 1])
        try:
            holder = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name and not (i and error.name == ".".join(parts[:i])):
                return None  # a module that it imports is missing
            if hasattr(holder, part):
                holder = getattr(holder, part)
                continue
            there = ".".join(parts[:i])
            inside = f" in '{there}'" if there else ""
            hint = did_you_mean(part, _modules(holder))
            raise ValueError(f"{place}: there is no module '{part}'{inside}{hint}") from None
        except Exception:
            return None
    return holder


def _modules(holder: Any) -> list[str]:
    """Modules beside each other: in a package, or the outermost."""
    paths = None if holder is None else getattr(holder, "__path__", [])
    return [each.name for each in pkgutil.iter_modules(paths)]


def _classes(holder: ModuleType | type, base: type) -> list[str]:
    names = getattr(holder, "__all__", None) or [name for name in vars(holder) if name[0] != "_"]
    values = {name: getattr(holder, name, None) for name in names}
    classes = [name for name, value in values.items() if inspect.isclass(value) and not inspect.isabstract(value)]
    return [name for name in classes if _is_subclass(values[name], base)] or classes


def _is_subclass(value: Any, base: type) -> bool:
    try:
        return issubclass(value, base)
    except TypeError:  # no base that this can be asked of
        return True


def _no_class(text: str, name: str, names: list[str]) -> str:
    known = f". Found {', '.join(names)}" if 0 < len(names) <= MOST else ""
    return f"{text}{known}{did_you_mean(name, names)}"
