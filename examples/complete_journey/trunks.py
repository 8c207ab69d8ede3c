"""Every trunk on Complete Journey: ``python -m examples.complete_journey.trunks --help``.

The same as ``torchrec-mtl compare``, with the rows prepared first.
"""

import sys
from pathlib import Path

from rich.console import Console

from examples.complete_journey.__main__ import DATA
from examples.complete_journey.prepare import prepare
from torchrec_mtl import cli

HERE = Path(__file__).parent
DEFAULTS = [
    f"--job={HERE / 'no_sequences.yaml'}",
    f"--candidates={HERE / 'trunks.yaml'}",
    "--output=runs/complete_journey_trunks",
]


def main(arguments: list[str] | None = None) -> int:
    """Prepares the rows and compares; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not {"--help", "-h"} & {*arguments}:
        prepare(DATA, console=Console())  # once: what is there is kept
    sys.argv = ["torchrec-mtl", "compare", *DEFAULTS, *arguments]
    cli.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
