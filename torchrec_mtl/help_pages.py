"""What ``--help`` and ``--network.trunk.help MMoE`` print: what a job gives, without lists that nobody reads."""

from __future__ import annotations

import re
from argparse import Action
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from torchrec_mtl.training.job import Job
from torchrec_mtl.training.job_names import given_at

MOST = 30  # an activation may be any of the hundreds of modules that happen to be imported


class ShortHelp(DefaultHelpFormatter):
    """Leaves out long lists of known subclasses."""

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action) or ""
        known = re.search(r", known subclasses: ([\w., ]+)", text)
        return text.replace(known[0], "") if known and known[1].count(",") >= MOST else text


class JobParser(ArgumentParser):
    """A parser whose pages about one class leave out what the job gives it, such as a tower's ``in_features``."""

    def __init__(self, *args: Any, formatter_class: Any = ShortHelp, **options: Any) -> None:
        super().__init__(*args, formatter_class=formatter_class, **options)

    def add_class_arguments(
        self, theclass: type, nested_key: str | None = None, *args: Any, skip: set[str | int] | None = None, **kw: Any
    ) -> list[str]:
        """Adds a class's arguments; a page about one class gives its place in the job as ``nested_key``."""
        if nested_key and not skip and (given := given_at(nested_key, Job)):
            skip = {given}
        return super().add_class_arguments(theclass, nested_key, *args, skip=skip, **kw)
