"""Names in a job that mean nothing: found before it is parsed, with their place and what was perhaps meant."""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from torchrec_mtl.arguments import OF_A_CLASS
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.training.class_paths import found


@dataclass(frozen=True)
class Place:
    """Where something stands in a job.

    Args:
        name: Dotted; "" for the job itself.
        help: Option of the command line that explains it; ``None`` where there is none.
    """

    name: str = ""
    help: str | None = ""

    def field(self, name: str, apart: bool) -> Place:
        """A field of it, which may have a page of its own apart from the command's."""
        own = None if self.help is None else f"--{self.inside(name)}.help " if apart else self.help
        return Place(self.inside(name), own)

    def inside(self, name: str) -> str:
        """The name of something in it."""
        return f"{self.name}.{name}" if self.name else name

    def explained(self, of: str = "") -> str:
        """The end of an error's text."""
        if self.help is None:
            return ""
        page = f"{self.help}{of}".strip() if self.help else "--help"
        return f" (torchrec-mtl train {page} explains them)"


def check_names(content: Mapping[str, Any], job: type, others: Iterable[str] = ()) -> None:
    """Checks that every key and every class in a job's content exists.

    Args:
        content: What the job file says.
        job: The job's class: it and the classes that the content names say what there is.
        others: What else the content may hold at its top.

    Raises:
        ValueError: If one does not; the text has its place, what there is, and what was perhaps meant.
    """
    own = {name: value for name, value in content.items() if name not in (*others, *OF_A_CLASS)}
    _check_fields(Place(), own, job)


def expected(kind: Any) -> tuple[type, int] | None:
    """The class that a value must be, or make from so many arguments; ``None`` for what is no class's instance."""
    kind = _single(kind)
    origin = get_origin(kind)
    if origin is collections.abc.Callable:
        arguments, result = get_args(kind)
        return (result if inspect.isclass(result) else object), (0 if arguments is ... else len(arguments))
    if origin is type:
        (result,) = get_args(kind)
        return (result if inspect.isclass(result) else object), 0
    return (kind, 0) if inspect.isabstract(kind) else None


def given_at(name: str, job: type) -> int:
    """How many arguments a class gets from the job itself at a dotted place, also as an item of a list or mapping."""
    kind: Any = job
    for part in name.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    kind = _single(kind)
    wanted = expected(kind) or (expected(parts[-1]) if (parts := get_args(kind)) else None)
    return 0 if wanted is None else wanted[1]


def arguments_of(made: Callable[..., Any], given: int = 0) -> dict[str, Any] | None:
    """``{argument: its annotation}`` of a class, without those that it is given; ``None`` if it takes any."""
    try:
        parameters = list(inspect.signature(made).parameters.values())[given:]
    except (TypeError, ValueError):  # compiled, without a signature
        return None
    try:
        hints = get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (NameError, TypeError):  # names that only a type checker imports
        hints = {}
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return {each.name: hints.get(each.name) for each in parameters if each.kind is not each.VAR_POSITIONAL}


def _check(place: Place, value: Any, kind: Any) -> None:
    kind = _single(kind)
    parts, wanted = get_args(kind), expected(kind)
    if isinstance(value, str) and wanted is not None:
        found(place.name, value, wanted[0])
    elif isinstance(value, str) and parts:
        _check(place, value, parts[-1])  # as --network.towers.help Tower names it
    elif isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        _check_class(place, value, *(wanted or (object, 0)))
    elif isinstance(value, Mapping) and is_dataclass(kind) and not inspect.isabstract(kind):
        _check_fields(place, value, kind)
    elif isinstance(value, Mapping):
        of = parts[1] if len(parts) == 2 and wanted is None else None
        for key, each in value.items():
            _check(replace(place, name=place.inside(str(key))), each, of)
    elif isinstance(value, list):
        of = parts[0] if parts and wanted is None else None
        for i, each in enumerate(value):
            _check(replace(place, name=f"{place.name}[{i}]"), each, of)


def _check_fields(place: Place, value: Mapping[str, Any], kind: Any) -> None:
    hints, names = get_type_hints(kind), [each.name for each in fields(kind) if each.init]
    for key, each in value.items():
        if key not in names:
            raise ValueError(
                f"{place.name or 'A job'} has no '{key}'. It takes {', '.join(names)}{did_you_mean(str(key), names)}"
                f"{place.explained()}"
            )
        apart = not is_dataclass(hints[key]) or inspect.isabstract(hints[key])
        _check(place.field(key, apart), each, hints[key])


def _check_class(place: Place, value: Mapping[str, Any], base: type, given: int) -> None:
    for key in value:
        if key not in OF_A_CLASS:
            hint = did_you_mean(str(key), OF_A_CLASS)
            raise ValueError(
                f"{place.name}: '{key}' beside class_path means nothing: a class's arguments stand in init_args{hint}"
            )
    made = found(place.name, value["class_path"], base)
    arguments = arguments_of(made, given) if callable(made) else None
    name = value["class_path"].rpartition(".")[2]
    init_args = value.get("init_args")
    for key, each in init_args.items() if isinstance(init_args, Mapping) else ():
        if arguments is not None and key not in arguments:
            raise ValueError(
                f"{place.name}: {name} has no argument '{key}'. It takes {', '.join(arguments) or 'none'}"
                f"{did_you_mean(str(key), arguments)}{place.explained(value['class_path'])}"
            )
        _check(Place(f"{place.name}.{key}", None), each, (arguments or {}).get(key))


def _single(kind: Any) -> Any:
    """An optional annotation without its ``None``; of several kinds none."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if len(kinds) == 1 else None
