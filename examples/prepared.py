"""Commands of ``torchrec-mtl`` on rows that are prepared first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from torchrec_mtl import cli


def run_prepared(
    prepare: Callable[[], object], command: Sequence[str], arguments: Sequence[str] | None, ready: Sequence[str] = ()
) -> int:
    """Prepares the rows (once: what is there is kept) and runs a command; returns the exit code.

    Args:
        prepare: Prepares the rows; left out where help is asked for.
        command: A subcommand, and arguments that come first.
        arguments: Further ones; by default those of this program.
        ready: Beginnings of arguments with which no rows need preparing.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not any(each in ("--help", "-h") or each.startswith(tuple(ready)) for each in given):
        prepare()
    sys.argv = ["torchrec-mtl", *command, *given]
    cli.main()
    return 0
