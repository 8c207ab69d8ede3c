"""Every trunk on Census-Income: ``python -m examples.census_income.trunks --help``.

The same as ``torchrec-mtl compare``, with the rows prepared first.
"""

import sys
from pathlib import Path

from rich.console import Console

from examples.census_income.prepare import prepare
from examples.prepared import run_prepared

HERE = Path(__file__).parent
DEFAULTS = [
    f"--job={HERE / 'job.yaml'}",
    f"--candidates={HERE / 'trunks.yaml'}",
    "--output=runs/census_income_trunks",
]


def main(arguments: list[str] | None = None) -> int:
    """Prepares the rows and compares; returns the exit code."""
    return run_prepared(lambda: prepare(console=Console()), ["compare", *DEFAULTS], arguments)


if __name__ == "__main__":
    sys.exit(main())
