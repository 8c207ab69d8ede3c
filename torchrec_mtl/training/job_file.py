"""A job from the content of a job file, for programs that train many variants of one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torchrec_mtl.tasks.task import Task
from torchrec_mtl.training.job import Job
from torchrec_mtl.training.job_names import check_names


def read_job(content: Mapping[str, Any]) -> Job:
    """Makes the job that ``torchrec-mtl train`` would read from a file of this content.

    Args:
        content: What the YAML file says.

    Raises:
        ValueError: If the content is no job.
    """
    from jsonargparse import ArgumentError, ArgumentParser  # noqa: PLC0415  # 0.1 s

    check_names(content, Job)
    set_job_parsing()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Job)
    try:
        values = parser.instantiate(parser.parse_object(copy.deepcopy(dict(content))))
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    return job_of(values)


def set_job_parsing() -> None:
    """Has parsers that are made from now on take any subclass of ``Task``, a dataclass, where one is declared."""
    from jsonargparse import set_parsing_settings  # noqa: PLC0415

    set_parsing_settings(subclasses_enabled=[Task], docstring_parse_attribute_docstrings=False)


def job_of(values: Mapping[str, Any]) -> Job:
    """The job of what a parser has made of ``Job``'s arguments, perhaps among others."""
    return Job(**{name: values[name] for name in Job.__dataclass_fields__})


def overridden(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A job's content with some values replaced, whole: nothing of what stood there is left.

    Args:
        content: What the YAML file says; it stays as it is.
        overrides: ``{"network.trunk.init_args.layers": [64]}``, applied in their order.

    Raises:
        ValueError: If a name leads through something that is no mapping.

    Example::

        overridden(content, {"network.trunk": {"class_path": "my_package.MyTrunk"}, "training.epochs": 2})
    """
    found: dict[str, Any] = copy.deepcopy(dict(content))
    for name, value in overrides.items():
        place, *parts = (found, *name.split("."))
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(  # noqa: TRY004  # a file is wrong, not an argument
                    f"'{name}' cannot be set: '{part}' is no mapping but {place!r}. Write a class as "
                    f"{{class_path: ..., init_args: ...}}, and replace a list whole."
                )
        place[parts[-1]] = copy.deepcopy(value)
    return found
