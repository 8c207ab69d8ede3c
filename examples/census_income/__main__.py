"""Prepares the rows and trains the job: ``python -m examples.census_income --help``.

The same as ``torchrec-mtl train``, with the rows prepared first.
"""

import sys
from pathlib import Path

from rich.console import Console

from examples.census_income.prepare import prepare
from examples.prepared import run_prepared

JOB = Path(__file__).with_name("job.yaml")


def main(arguments: list[str] | None = None) -> int:
    """Prepares the rows and trains; returns the exit code."""
    return run_prepared(lambda: prepare(console=Console()), ["train", f"--config={JOB}"], arguments)


if __name__ == "__main__":
    sys.exit(main())
