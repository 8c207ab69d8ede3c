"""What a job's first step finds: numbers of a checkpoint, of files, or random ones; said aloud and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from torchrec_mtl.data.pretrained import Coverage
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.training.addresses import inside
from torchrec_mtl.training.job import Job
from torchrec_mtl.training.origin import Origin
from torchrec_mtl.training.pretrained import load_pretrained
from torchrec_mtl.training.reporting import Reporter, write_metrics
from torchrec_mtl.training.session import Session, anew
from torchrec_mtl.training.start_meaning import check_meaning
from torchrec_mtl.training.warm_start import Started, warm_start

FILE = "start.json"
GROUPS = ("tables", "towers", "sequences")  # of parts that a job names


def check_beginning(job: Job) -> None:
    """Checks what can be checked before anything is read.

    Raises:
        ValueError: If a table has two sources, a part is named that is none, or something
            would be frozen at random.
    """
    start, freeze = job.training.start_from, job.training.freeze
    _check_names(job, {"freeze": freeze, "start_from.new": () if start is None else start.new})
    given = {f"tables.{table.name}" for table in job.features.tables if table.pretrained is not None}
    if start is not None and (twice := sorted(name for name in given if not inside(name, start.new))):
        raise ValueError(
            f"{twice} have pretrained vectors, and start_from would load them from '{start.checkpoint}'. Name them in "
            f"start_from.new to take the vectors, or leave out their pretrained."
        )
    if start is not None:
        return
    tables = {f"tables.{table.name}" for table in job.features.tables}
    random = [part for part in freeze if part not in given and not (part == "tables" and given == tables)]
    if random:
        raise ValueError(
            f"training.freeze names {random}, which would stay at random: nothing is loaded into them. Give "
            f"training.start_from, or tables their pretrained vectors."
        )


def _check_names(job: Job, given: Mapping[str, Sequence[str]]) -> None:
    """Refuses parts that no network of this job has; what is inside the trunk, only one that has been built knows."""
    tables, sequences = ([each.name for each in part] for part in (job.features.tables, job.features.sequences))
    named = dict(zip(GROUPS, (tables, job.network.towers, sequences), strict=True))
    inner = [f"{group}.{name}" for group, names in named.items() for name in names]
    known = [*GROUPS, "trunk", "dense", "links", *inner]
    for what, parts in given.items():
        for part in parts:
            group = part.partition(".")[0]
            if part not in GROUPS and not inside(part.partition(":")[0], inner if group in GROUPS else known):
                raise ValueError(f"{what}: there is no part '{part}'. Found {known}{did_you_mean(part, known)}")


def begin(session: Session, origin: Origin | None, reporter: Reporter) -> None:
    """Loads what a new run starts with, prints it and writes ``start.json``.

    Raises:
        ValueError: If something that is not declared new would start at random, or what is loaded would mean something
            else.
    """
    job, runtime = session.job, session.runtime
    started, notes = Started(), []
    if origin is not None:
        assert session.serving.network is not None
        assert job.training.start_from is not None
        check_meaning(origin, job.features, session.start, session.serving.network, job.network.dense is not None)
        started = warm_start(session.pipeline, job.training.start_from)
        notes += origin.changed_tasks(job.tasks, job.network.towers)
        notes += _refitted(session, origin)
    coverage = runtime.together(lambda: load_pretrained(session.pipeline, job.features))
    for name, found in coverage.items():
        rows = next(table.rows for table in job.features.tables if table.name == name)
        notes += _frozen_at_random(job, name, rows - found.given)
        notes.append(
            f"Table '{name}': {found.given:,} of {rows:,} rows start with pretrained vectors; {rows - found.given:,} "
            f"rows have none and start as declared, and {found.unknown:,} vectors have no row."
        )
    if origin is None and not coverage:
        return
    started = replace(started, notes=[*started.notes, *notes])
    _say(started, job, coverage, reporter)
    if runtime.is_main:
        _write(job.output / FILE, started, job, coverage)


def _frozen_at_random(job: Job, table: str, rows: int) -> list[str]:
    """What is to be said of rows of a frozen table that have no vector.

    Raises:
        ValueError: If start_from.new does not allow them.
    """
    feature = next((each for each in job.features.ids if each.table_name == table), None)
    unknown = feature is not None and feature.vocabulary is not None  # row 0, which no file names
    part, start = f"tables.{table}", job.training.start_from
    if rows <= unknown or not inside(part, job.training.freeze):
        return []
    if start is None or not inside(part, start.new):
        raise ValueError(
            f"training.freeze names table '{table}', but {rows:,} of its rows have no pretrained vector and would be "
            f"frozen at random. Give them vectors in its file, or let the table train."
        )
    return [f"Table '{table}' is frozen: its {rows:,} rows without a pretrained vector stay at random."]


def _refitted(session: Session, origin: Origin) -> list[str]:
    kept, found = origin.kept(session.job.network.towers), []
    for task in session.job.tasks:
        if not task.statistics:
            continue
        where = "the training split"
        if task.name in kept and dict(task.statistics) in [dict(each) for each in origin.serving.statistics.values()]:
            where = "the checkpoint, as its tower was trained with them"
        found.append(f"Task '{task.name}' has its statistics from {where}.")
    return [*found, *_uncalibrated(session.job, origin)]


def _uncalibrated(job: Job, origin: Origin) -> list[str]:
    """What is to be said of the checkpoint's calibration, which is not taken over."""
    there, renamed = sorted(origin.serving.calibrators), origin.start.renamed("towers")
    if not there:
        return []
    here = sorted({renamed.get(name, name) for name in there} & {task.name for task in job.tasks})
    again = [name for name in here if name in job.calibration]
    lost = [name for name in here if name not in job.calibration]
    text = f"The checkpoint's calibration of {there} is left behind."
    text += f" {again} are calibrated anew at the end." if again else ""
    text += f" This job declares none for {lost}: what they predict is not calibrated." if lost else ""
    return [text]


def _say(started: Started, job: Job, coverage: Mapping[str, Coverage], reporter: Reporter) -> None:
    if started.parts:
        table = Table("part", "loaded", "new", "called there", "state", title=f"Starting from {started.checkpoint}")
        for part, each in started.parts.items():
            origin = each["there"] if each["there"] != part and each["loaded"] else ""
            state = "pretrained" if part.removeprefix("tables.") in coverage and part.startswith("tables.") else ""
            state = ", ".join(filter(None, [state, _frozen(part, each, job)]))
            table.add_row(part, f"{each['loaded']:,}", f"{each['new']:,}", origin, state)
        reporter.console.print(table)
    if started.left:
        left = ", ".join(f"{part} ({number:,})" for part, number in started.left.items())
        reporter.say(f"Left in the checkpoint: {left}; and its optimizers' state.")
    for note in started.notes:
        reporter.say(note)


def _frozen(part: str, counts: Mapping[str, int], job: Job) -> str:
    if not inside(part, job.training.freeze):
        return ""
    return "what is loaded is frozen" if counts["new"] and counts["loaded"] else "frozen" if counts["loaded"] else ""


def _write(path: Path, started: Started, job: Job, coverage: Mapping[str, Coverage]) -> None:
    content = {
        "checkpoint": started.checkpoint,
        "parts": {part: dict(each) for part, each in started.parts.items()},
        "left": dict(started.left),
        "frozen": list(job.training.freeze),
        "new": anew(job),
        "pretrained": {name: {"rows": each.given, "without_row": each.unknown} for name, each in coverage.items()},
        "notes": list(started.notes),
    }
    write_metrics(path, content)
