"""The main job in one command: prepare the data, train on ranks under TorchX, measure, draw.

``python -m examples.complete_journey --help``
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.complete_journey.plots import draw
from examples.complete_journey.prepare import prepare

JOB = Path(__file__).with_name("job.yaml")
DATA, OUTPUT = Path("data/complete_journey"), Path("runs/complete_journey")


def launch(ranks: int, output: Path, resume: bool, arguments: list[str], console: Console, job: Path = JOB) -> int:
    """Runs the job under TorchX's ``local_cwd`` scheduler and returns its exit code."""
    binaries = Path(sys.executable).parent  # TorchX looks for torchrun on the PATH
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    command = [
        "torchx",
        "run",
        "-s",
        "local_cwd",
        "launch/components.py:train",
        "--job",
        os.path.relpath(job),
    ]
    command += ["--ranks", str(ranks), "--", f"--output={output}", *(["--resume"] if resume else []), *arguments]
    console.print(f"[bold]{shlex.join(command)}[/bold]", highlight=False, soft_wrap=True)
    return subprocess.run(command, env=environment, check=False).returncode


def figures_of(ranks: int, output: Path, arguments: list[str], console: Console, job: Path = JOB) -> dict[str, Any]:
    """Metrics of a run, which is trained first (or taken up again) where it is not there yet.

    Raises:
        SystemExit: With the job's exit code, if it fails.
    """
    found = output / "metrics.json"
    if not found.exists() and (code := launch(ranks, output, True, arguments, console, job)):
        raise SystemExit(code)
    figures: dict[str, Any] = json.loads(found.read_text())
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Runs the main job; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.complete_journey",
        description="Prepares the Complete Journey exposures (once), trains the job under TorchX and draws its curves. "
        "Further arguments go to torchrec-mtl train, for instance --training.epochs 2.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--ranks", type=int, default=2, help="processes, each with its share of tables and rows")
    parser.add_argument("--seed", type=int, default=0, help="picks the sampled rows; training has --training.seed")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where checkpoints, curves and metrics go")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --output")
    options, rest = parser.parse_known_args(arguments)
    console = Console()
    if (options.output / "checkpoints").exists() and not options.resume:
        console.print(f"{options.output} already holds a run: continue it with --resume, or give another --output.")
        return 1
    prepare(DATA, options.seed, console=console)
    if code := launch(options.ranks, options.output, options.resume, rest, console):
        return code
    figures = json.loads((options.output / "metrics.json").read_text())
    console.print(f"Figures: {options.output / 'metrics.json'}; curves: {draw(options.output, figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
