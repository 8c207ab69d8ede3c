"""The ablation in one command: ``python -m examples.entire_space_ablation --help``.

The same as ``torchrec-mtl ablate``, with Complete Journey prepared first.
"""

import sys

from rich.console import Console

from examples.complete_journey.prepare import prepare
from examples.prepared import run_prepared
from torchrec_mtl.experiments.ablation.ablate import JOURNEY


def main(arguments: list[str] | None = None) -> int:
    """Prepares the rows and runs the ablation; returns the exit code."""
    return run_prepared(lambda: prepare(JOURNEY, console=Console()), ["ablate"], arguments, ready=["--journey"])


if __name__ == "__main__":
    sys.exit(main())
