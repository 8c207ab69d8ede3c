"""Every trunk on Complete Journey: ``python -m examples.complete_journey.trunks --help``.

The same as ``torchrec-mtl compare``, with the rows prepared first.
"""

import sys
from pathlib import Path

from rich.console import Console

from examples.complete_journey.__main__ import DATA
from examples.complete_journey.prepare import prepare
from examples.prepared import run_prepared

HERE = Path(__file__).parent
DEFAULTS = [
    f"--job={HERE / 'no_sequences.yaml'}",
    f"--candidates={HERE / 'trunks.yaml'}",
    "--output=runs/complete_journey_trunks",
]


def main(arguments: list[str] | None = None) -> int:
    """Prepares the rows and compares; returns the exit code."""
    return run_prepared(lambda: prepare(DATA, console=Console()), ["compare", *DEFAULTS], arguments)


if __name__ == "__main__":
    sys.exit(main())
