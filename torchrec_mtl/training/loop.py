"""Trains a job and measures it: what the command line runs on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.data.lockstep import LockstepIterator
from torchrec_mtl.data.meaning import check_same_types
from torchrec_mtl.data.reader import BatchReader
from torchrec_mtl.data.source import Source
from torchrec_mtl.training import checkpoint
from torchrec_mtl.training.autocast import slower_products
from torchrec_mtl.training.beginning import begin, check_beginning
from torchrec_mtl.training.calibrating import check_calibration
from torchrec_mtl.training.distributed import Runtime
from torchrec_mtl.training.evaluation import Metrics
from torchrec_mtl.training.finishing import finish
from torchrec_mtl.training.fitting import fit_tasks
from torchrec_mtl.training.inside import watched_step
from torchrec_mtl.training.job import Job
from torchrec_mtl.training.measuring import Measured, measure, write_figures
from torchrec_mtl.training.origin import Origin
from torchrec_mtl.training.position import Position, read_position
from torchrec_mtl.training.reporting import Bar, Reporter
from torchrec_mtl.training.schedule import ScheduledRates
from torchrec_mtl.training.serving_state import ServingState, meaning_of
from torchrec_mtl.training.session import Session, open_checkpoint, open_session, open_split


def train(job: Job, runtime: Runtime, resume: bool = False) -> Metrics | None:
    """Trains a job from its start or its newest checkpoint, and measures it on its splits.

    Writes to ``job.output``: ``checkpoints/``, ``tensorboard/``, ``metrics.json``, ``reliability_<split>.png`` and
    ``inside_<split>.json`` and ``.png``.

    Args:
        job: The job.
        runtime: This process.
        resume: Whether to go on from the newest checkpoint below ``job.output``, if there is one.

    Returns:
        Metrics of the test split (else the validation split) on rank 0, where there is one.

    Raises:
        ValueError: Before the first step, if the job or its data are wrong, or ``job.output`` holds another run.
        KeyboardInterrupt: If it is interrupted; the text says how far it came and where ``resume`` goes on.
    """
    directory = job.output / "checkpoints"
    existing = checkpoint.checkpoints(directory)
    if existing and not resume:
        raise ValueError(
            f"'{job.output}' already holds a run (its newest checkpoint is {existing[-1].name}). Continue it with "
            f"--resume, or give another --output."
        )
    reporter = Reporter(runtime.is_main)
    if resume and not existing:
        reporter.say(f"No checkpoint in '{directory}' yet: starting from the beginning.")
    model = job.checked()  # a mistake in the network need not wait for all labels
    check_calibration(job, model.heads)
    if model.trunk.keeps_tables_apart and not job.features.own_tables:
        reporter.say(
            f"{type(model.trunk).__name__} trains tables of single tasks apart, but features.own_tables names none, so "
            f"all tasks share all tables."
        )
    if warning := slower_products(job.training.autocast, runtime.device):
        reporter.say(warning)
    check_beginning(job)
    origin = None if existing or job.training.start_from is None else Origin.read(job.training.start_from)
    known = job.tasks if origin is None else origin.fitted(job.tasks, job.network.towers, job.training.freeze)
    splits = _open_splits(job, runtime, reporter)
    serving = ServingState.read(existing[-1]) if existing else ServingState()
    tasks = runtime.together(lambda: fit_tasks(serving.restored(known), splits["train"]))
    declared = {task.name: meaning_of(task) for task in job.tasks}
    job = replace(job, tasks=tasks)
    brought = existing or (origin is not None and origin.loads("dense"))  # the encoder's statistics too
    session = open_session(job, runtime, splits["train"], None if brought else splits["train"], declared)
    check_calibration(job, session.heads)
    now = replace(session.start, order=session.reader(splits["train"], shuffled=True).order)
    position = now
    if existing:
        loaded = checkpoint.resume(existing[-1], session.pipeline, now, runtime)
        position = replace(now, step=loaded.step, epoch=loaded.epoch, batch=loaded.batch)
        left = f"epoch {position.epoch + 1}, batch {position.batch}"
        left = left if position.epoch < job.training.epochs else "all epochs are trained"
        reporter.say(f"Resuming from {existing[-1].name}: {left}.")
        _resume_calibration(session, serving, position, reporter)
    else:
        begin(session, origin, reporter)
    reporter = Reporter(runtime.is_main, job.output, position.step)
    try:
        position, validated = _epochs(session, splits, position, reporter)
        return finish(session, splits, position.step, reporter, validated)
    except KeyboardInterrupt:
        newest = checkpoint.checkpoints(directory)
        on = f"--resume goes on from {newest[-1]}" if newest else "there is no checkpoint yet to go on from"
        raise KeyboardInterrupt(f"Interrupted at step {reporter.step:,}; {on}.") from None
    finally:
        reporter.close()


def _open_splits(job: Job, runtime: Runtime, reporter: Reporter) -> dict[str, Source]:
    splits: dict[str, Source] = {}
    for name, paths in (("train", job.data.train), ("validation", job.data.validation), ("test", job.data.test)):
        if paths:
            splits[name], labels = open_split(job, runtime, paths, name)
            if labels is not None:
                reporter.labels(name, labels)
    check_same_types(splits)
    if slow := splits["train"].slow_tables():
        reporter.say(
            f"Tables {slow} pool by mean, but their columns hold single values: pooling: sum gives the same numbers, "
            f"and on CPU FBGEMM takes a sixth of the time for it."
        )
    return splits


def _resume_calibration(session: Session, serving: ServingState, position: Position, reporter: Reporter) -> None:
    if position.epoch < session.job.training.epochs:
        if serving.calibrators:
            reporter.say("Training goes on, so the checkpoint's calibration is left; it is fitted anew at the end.")
    elif serving.calibrators:
        session.calibrate(serving)
        reporter.say(serving.note(session.job.calibration))


def _epochs(
    session: Session, splits: Mapping[str, Source], position: Position, reporter: Reporter
) -> tuple[Position, Measured | None]:
    """Trains the epochs that are left; gives the position at the end and the last validation (rank 0)."""
    reader = session.reader(splits["train"], shuffled=True)
    directory, keep = session.job.output / "checkpoints", session.job.training.keep
    saved, validated = None, None
    training = session.job.training
    total = training.epochs * session.runtime.largest(reader.num_batches)
    rates = ScheduledRates(session.pipeline._optimizer, training.schedule, total)
    while position.epoch < training.epochs:
        validated = None  # its rows need not be kept for another epoch
        batches = session.runtime.largest(reader.num_batches)
        for reached in _epoch(session, reader, rates, position, reporter):
            position = reached
            last = position.batch == batches  # the end of the epoch is saved below
            if position.step % training.checkpoint_every == 0 and not last:
                checkpoint.save(directory, session.pipeline, position, session.runtime, keep, session.serving)
        position = replace(position, epoch=position.epoch + 1, batch=0)
        saved = checkpoint.save(directory, session.pipeline, position, session.runtime, keep, session.serving)
        if "validation" in splits:
            validated = measure(session, splits["validation"], "validation", position.step, reporter)
    if saved is not None:
        reporter.say(f"Trained {position.step:,} steps; checkpoint {saved}.")
    return position, validated


def _epoch(
    session: Session, reader: BatchReader, rates: ScheduledRates, position: Position, reporter: Reporter
) -> Iterator[Position]:
    """Trains from a position to the end of its epoch; gives the position after each step."""
    runtime, pipeline, training = session.runtime, session.pipeline, session.job.training
    pinned = runtime.device.type == "cuda"  # only from page-locked memory do copies to a GPU overlap training
    batches: Iterator[MultiTaskBatch] = (
        batch.pin_memory() if pinned else batch for batch, _ in reader.batches(position.epoch, skip=position.batch)
    )
    iterator = LockstepIterator(batches, reader.padding, runtime.control)
    rows = reader.batch_size * runtime.rank.world_size
    title = f"epoch {position.epoch + 1}/{training.epochs}"
    pipeline._model.train()
    with reporter.bar(title, reader.source.rows, position.batch * rows) as bar:
        while True:
            rates.set(position.step)
            try:
                with watched_step(session, reader, position, reporter):
                    output = pipeline.progress(iterator)
            except StopIteration:
                return
            position = replace(position, step=position.step + 1, batch=position.batch + 1)
            reporter.step = position.step
            if position.step % training.log_every == 0 or bar.done + rows >= bar.total:
                _log(output, bar, rows, position.step, reporter)
            else:
                bar.advance(rows)
            yield position


def _log(output: dict[str, Any], bar: Bar, rows: int, step: int, reporter: Reporter) -> None:
    loss = float(output["loss"])
    bar.advance(rows, loss)
    curves = {f"train/{task}/loss": float(value) for task, value in output["losses"].items()}
    reporter.scalars({"train/loss": loss, "train/samples_per_second": bar.samples_per_second, **curves}, step)


def evaluate_checkpoint(job: Job, runtime: Runtime, path: Path, split: str = "test") -> Metrics | None:
    """Measures a checkpoint on a split, on any number of ranks.

    Args:
        job: The job that the checkpoint was trained with.
        runtime: This process.
        path: The checkpoint, or a directory of checkpoints (the newest is taken).
        split: "train", "validation" or "test". Figures also go to ``job.output/metrics_<split>.json``.

    Raises:
        ValueError: If the split is not in the job, or the checkpoint cannot be read.
    """
    paths = getattr(job.data, split, None)
    if not paths:
        raise ValueError(f"The job names no files for the split '{split}': set data.{split}.")
    found = checkpoint.find(path)
    reporter = Reporter(runtime.is_main)
    source, _ = open_split(job, runtime, paths, split)
    session = open_checkpoint(job, runtime, found, source)
    reporter.say(session.serving.note(job.calibration))
    measured = measure(session, source, split, read_position(found).step, reporter)
    if measured is None:
        return None
    write_figures(session, f"metrics_{split}.json", measured, {})
    return measured.metrics
