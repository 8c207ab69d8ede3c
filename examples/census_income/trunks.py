"""Every trunk on Census-Income: ``python -m examples.census_income.trunks --help``.

The same as ``torchrec-mtl compare``, with the rows prepared first.
"""

import sys
from pathlib import Path

from rich.console import Console

from examples.census_income.prepare import prepare
from torchrec_mtl import cli

HERE = Path(__file__).parent
DEFAULTS = [
    f"--job={HERE / 'job.yaml'}",
    f"--candidates={HERE / 'trunks.yaml'}",
    "--output=runs/census_income_trunks",
]


def main(arguments: list[str] | None = None) -> int:
    """Prepares the rows and compares; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not {"--help", "-h"} & {*arguments}:
        prepare(console=Console())  # once: what is there is kept
    sys.argv = ["torchrec-mtl", "compare", *DEFAULTS, *arguments]
    cli.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
