"""Prepares the rows and trains the job: ``python -m examples.census_income --help``.

The same as ``torchrec-mtl train``, with the rows prepared first.
"""

import sys
from pathlib import Path

from rich.console import Console

from examples.census_income.prepare import prepare
from torchrec_mtl import cli

JOB = Path(__file__).with_name("job.yaml")


def main(arguments: list[str] | None = None) -> int:
    """Prepares the rows and trains; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not {"--help", "-h"} & {*arguments}:
        prepare(console=Console())  # once: what is there is kept
    sys.argv = ["torchrec-mtl", "train", f"--config={JOB}", *arguments]
    cli.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
