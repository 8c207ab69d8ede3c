"""``torchrec-mtl train | evaluate | predict | compare``, around a job file, and ``vocab | simulate | ablate``."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torchrec_mtl.arguments import check_given, job_file_first, whole_lists

DESCRIPTION = """Multi-task ranking on TorchRec, from a job file.

Every value of the job file can be given on the command line as well, and then wins: --training.epochs 2.
Lists are given whole: --data.keys '[user, item]'.
Classes are named by import path, your own too: --network.trunk my_package.MyTrunk.
Under torchrun or TorchX the same command runs on every rank."""


def build_parser() -> Any:
    """The parser of all subcommands, by jsonargparse."""
    from torchrec_mtl.data.make_vocabularies import make_vocabularies
    from torchrec_mtl.experiments.ablation.ablate import Plan, ablate
    from torchrec_mtl.experiments.comparison.compare import compare
    from torchrec_mtl.experiments.simulation import simulate
    from torchrec_mtl.experiments.world import World
    from torchrec_mtl.help_pages import JobParser
    from torchrec_mtl.training.job import Job
    from torchrec_mtl.training.job_file import set_job_parsing

    set_job_parsing()
    parser = JobParser(prog="torchrec-mtl", description=DESCRIPTION, exit_on_error=False)
    commands = parser.add_subcommands()
    for name, text in (
        ("train", "Train a job and measure it on its validation and test splits."),
        ("evaluate", "Measure a checkpoint on a split: exact figures on any number of ranks."),
        ("predict", "Write one column per task for every row of some Parquet files."),
    ):
        command = JobParser(description=text, exit_on_error=False)
        command.add_argument("--config", action="config", help="Job file (YAML).")
        command.add_class_arguments(Job)
        if name == "train":
            command.add_argument(
                "--resume", action="store_true", help="Go on from the newest checkpoint in --output, if there is one."
            )
        else:
            command.add_argument(
                "--checkpoint", type=Path | None, help="Checkpoint, or a directory of them; by default --output's."
            )
        if name == "evaluate":
            command.add_argument(
                "--split", type=Literal["train", "validation", "test"], default="test", help="Split to measure."
            )
        if name == "predict":
            command.add_argument("--rows", type=list[str], required=True, help="Parquet files, directories or globs.")
            command.add_argument("--predictions", type=Path, required=True, help="Directory to write Parquet to.")
        commands.add_subcommand(name, command, help=text)
    text = "Count the values of id columns and write vocabularies, one Parquet file each."
    vocab = JobParser(description=text, exit_on_error=False)
    vocab.add_function_arguments(make_vocabularies)
    commands.add_subcommand("vocab", vocab, help=text)
    text = "Write impressions whose true rates are known, also for the rows that nobody clicks."
    command = JobParser(description=text, exit_on_error=False)
    command.add_class_arguments(World)
    command.add_function_arguments(simulate, skip={"world"})
    commands.add_subcommand("simulate", command, help=text)
    text = "Compare ways to share and to train a conversion rate over the entire space."
    command = JobParser(description=text, exit_on_error=False)
    command.add_class_arguments(Plan)
    command.add_function_arguments(ablate, skip={"plan", "quick"})
    command.add_argument("--quick", action="store_true", help="A few rows and seeds, to see that everything runs.")
    commands.add_subcommand("ablate", command, help=text)
    text = "Tune candidates, such as trunks, with one budget, and compare them on a job under several seeds."
    command = JobParser(description=text, exit_on_error=False)
    command.add_function_arguments(compare)
    commands.add_subcommand("compare", command, help=text)
    return parser


def run(arguments: Sequence[str] | None = None) -> Any:
    """Runs a subcommand on this rank.

    Raises:
        ValueError: If the job, its data or a checkpoint is wrong; before any training step.
        ArgumentError: If an argument or the job file cannot be parsed.
        SystemExit: After ``--help`` and ``--print_config``.
    """
    parser = build_parser()
    given = job_file_first(list(sys.argv[1:] if arguments is None else arguments))
    replaced = check_given(given)
    parsed = parser.parse_args(whole_lists(given))
    from torchrec_mtl.data.make_vocabularies import make_vocabularies
    from torchrec_mtl.experiments.ablation.ablate import Plan, ablate
    from torchrec_mtl.experiments.comparison.compare import compare
    from torchrec_mtl.experiments.simulation import simulate
    from torchrec_mtl.experiments.world import World
    from torchrec_mtl.serving import write_predictions
    from torchrec_mtl.training import loop
    from torchrec_mtl.training.distributed import distributed
    from torchrec_mtl.training.job_file import job_of

    command = parsed.subcommand
    if os.environ.get("RANK", "0") == "0":
        for text in filter(None, (each.left(parsed[command]) for each in replaced)):
            print(text)  # noqa: T201  # the run goes on
    values = parser.instantiate(parsed)[command]
    if command in ("vocab", "compare"):
        return (make_vocabularies if command == "vocab" else compare)(**values)
    if command == "ablate":
        plan = Plan(**{name: values.pop(name) for name in Plan.__dataclass_fields__})
        return ablate(plan, **values)
    if command == "simulate":
        world = World(**{name: values.pop(name) for name in World.__dataclass_fields__})
        return simulate(world, **values)
    job = job_of(values)
    with distributed() as runtime:
        if command == "train":
            return loop.train(job, runtime, values.resume)
        checkpoint = values.checkpoint or job.output / "checkpoints"
        if command == "evaluate":
            return loop.evaluate_checkpoint(job, runtime, checkpoint, values.split)
        return write_predictions(job, runtime, checkpoint, values.rows, values.predictions)


def main() -> None:
    """Entry point: user errors end with a sentence, not a traceback."""
    sys.path.insert(0, str(Path.cwd()))  # a module of one's own beside the job file
    quiet()
    try:
        _run_as_rank()
    except ArgumentError as error:
        page = f"\n(torchrec-mtl {' '.join(sys.argv[1:2])} --help explains each value)"
        text = f"{error.message}{'' if ' explains ' in error.message else page}"
        print(f"torchrec-mtl: error: {text}", file=sys.stderr)  # noqa: T201  # the place where errors end
        sys.exit(2)
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("TORCHREC_MTL_TRACEBACK"):
            raise
        hint = "" if " explains " in str(error) else " (TORCHREC_MTL_TRACEBACK=1 shows where)"
        print(f"torchrec-mtl: error: {error}{hint}", file=sys.stderr)  # noqa: T201  # the place where errors end
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{interrupt if interrupt.args else 'Interrupted.'}", file=sys.stderr)  # noqa: T201
        sys.exit(130)  # as a shell says it


def _run_as_rank() -> None:
    """Runs; a rank that loses another waits a moment, as perhaps both are interrupted and the other was faster."""
    try:
        run()
    except RuntimeError:
        if "RANK" in os.environ:
            time.sleep(3.0)  # raises KeyboardInterrupt
        raise


def quiet() -> None:
    """Leaves out what TorchRec and torch say at every start and nobody can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("Sharding spec not found"))
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
