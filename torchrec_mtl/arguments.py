"""What is given on the command line, beside or over a job file: ordered, and checked for names that mean nothing."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ON_JOBS = ("train", "evaluate", "predict")
OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")
BESIDE = ("config", "resume", "checkpoint", "split", "rows", "predictions", "print_config", "help")


def job_file_first(arguments: list[str]) -> list[str]:
    """Moves ``--config`` to the front: values on the command line win wherever they stand."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--config"):
            length = 1 if "=" in argument else 2
            rest = arguments[1:i] + arguments[i + length :]
            return [*arguments[:1], *arguments[i : i + length], *rest]
    return arguments


def whole_lists(arguments: list[str]) -> list[str]:
    """Empties a list before it is given: the parser would fill what an item leaves out from the job file's item."""
    found = []
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        value = value if equals else (arguments[i + 1] if i + 1 < len(arguments) else "")
        if name.startswith("--") and value.lstrip().startswith("["):
            found.append(f"{name}=[]")
        found.append(argument)
    return found


@dataclass(frozen=True)
class Replaced:
    """A class of the job file that the command line replaces.

    Args:
        place: Where, dotted.
        name: The class that the file names.
        init_args: The arguments that the file gives it.
    """

    place: str
    name: str
    init_args: Sequence[str]

    def left(self, values: Any) -> str:
        """A sentence about those of its arguments that the other class has not; "" if it has all."""
        init_args = (values.get(self.place) or {}).get("init_args") or {}
        if not (names := [name for name in self.init_args if name not in init_args]):
            return ""
        return (
            f"{self.place}: {', '.join(names)} of the job file's {self.name} {'is' if len(names) == 1 else 'are'} not "
            f"taken over: the class given on the command line has no such argument."
        )


def check_given(arguments: Sequence[str]) -> list[Replaced]:
    """Checks the names in a job file, and in what the command line sets over it.

    Returns:
        The classes of the job file that the command line replaces.

    Raises:
        ArgumentError: If a name means nothing.
    """
    if not arguments or arguments[0] not in ON_JOBS:
        return []
    from torchrec_mtl.training.job import Job  # noqa: PLC0415  # torch takes seconds
    from torchrec_mtl.training.job_file import overridden  # noqa: PLC0415
    from torchrec_mtl.training.job_names import check_names  # noqa: PLC0415

    content: dict[str, Any] = {}
    replaced: list[Replaced] = []
    try:
        for name, value in _named(arguments[1:]):
            if name == "config":
                content = {**content, **_read(value)}
            elif name.endswith(".help"):
                check_names(overridden({}, {name.removesuffix(".help"): value or None}), Job)
            elif name.partition(".")[0] not in BESIDE:
                replaced += _set(content, name.removesuffix("+"), _loaded(value))
        check_names(content, Job, BESIDE)
    except ValueError as error:
        raise ArgumentError(None, str(error)) from None
    return replaced


def _named(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            after = arguments[i + 1] if i + 1 < len(arguments) and not arguments[i + 1].startswith("--") else ""
            yield name, value if equals else after


def _read(path: str) -> dict[str, Any]:
    """A job file's content; empty where it cannot be read, which the parser says."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _loaded(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _set(content: dict[str, Any], name: str, value: Any) -> list[Replaced]:
    """Sets a value as the parser does: a class in place of another, and an argument in the class that stands there."""
    place, (*parts, last) = content, name.removesuffix(".class_path").split(".")
    for i, part in enumerate(parts):
        if isinstance(found := place.get(part), str):
            found = {"class_path": found}
        if isinstance(found, list):
            return []  # its items have no names, as the parser says
        place[part] = place = found if isinstance(found, dict) else {}
        if "class_path" in place and part != "init_args" and (*parts, last)[i + 1] not in OF_A_CLASS:
            place["init_args"] = place = place.get("init_args") or {}
    before = place.get(last)
    if isinstance(value, str) and name.endswith(".class_path"):
        value = {"class_path": value}
    place[last] = value
    if not isinstance(before, dict) or "class_path" not in before:
        return []
    other = value.get("class_path") if isinstance(value, dict) else value
    if not isinstance(other, str) or other == before["class_path"]:
        return []
    place[last] = value if isinstance(value, dict) else {"class_path": value}
    return [Replaced(name.removesuffix(".class_path"), before["class_path"], list(before.get("init_args") or {}))]
