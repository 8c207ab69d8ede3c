"""A job set up on this rank: sources checked, model sharded, pipeline built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from torchrec_mtl.data.check import LabelReport, report, scan_labels
from torchrec_mtl.data.ids import vocabulary_fingerprints
from torchrec_mtl.data.meaning import hashed_types, meanings
from torchrec_mtl.data.open import open_source
from torchrec_mtl.data.reader import BatchReader
from torchrec_mtl.data.source import Source
from torchrec_mtl.dense import DenseEncoder
from torchrec_mtl.heads.heads import TaskHeads
from torchrec_mtl.managed import check_device
from torchrec_mtl.model import MultiTaskModel
from torchrec_mtl.training.addresses import NetworkNames
from torchrec_mtl.training.checkpoint import load_model, objective_of
from torchrec_mtl.training.distributed import Runtime
from torchrec_mtl.training.fitting import check_fitted
from torchrec_mtl.training.freezing import freeze
from torchrec_mtl.training.job import Job
from torchrec_mtl.training.pipeline import build_train_pipeline
from torchrec_mtl.training.position import Position
from torchrec_mtl.training.serving_state import ServingState, label_of
from torchrec_mtl.training.sharding import sharding_of


@dataclass
class Session:
    """A job on this rank.

    Args:
        job: The job.
        runtime: This process.
        pipeline: TorchRec's pipeline around the sharded objective.
        start: A position at step 0 that says what this run is.
        serving: Statistics of the tasks, and the calibrators that are applied: see :meth:`calibrate`.
    """

    job: Job
    runtime: Runtime
    pipeline: TrainPipelineSparseDist
    start: Position
    serving: ServingState

    @property
    def model(self) -> MultiTaskModel:
        """The network, inside the sharded objective."""
        return objective_of(self.pipeline).model

    @property
    def heads(self) -> TaskHeads:
        """Towers and links, inside the sharded model."""
        return self.model.heads

    def calibrate(self, serving: ServingState) -> None:
        """Applies calibrators from now on."""
        for name, calibrator in serving.calibrators.items():
            self.heads.calibrate(name, calibrator)
        self.serving = replace(self.serving, calibrators=serving.calibrators)

    def reader(self, source: Source, shuffled: bool = False) -> BatchReader:
        """This rank's share of a split."""
        data = self.job.data
        seed = self.job.training.seed if shuffled else None
        return BatchReader(source, data.batch_size, self.runtime.rank, seed, data.shuffle_rows, data.read_ahead)


def open_session(
    job: Job,
    runtime: Runtime,
    rows: Source | None = None,
    fit_on: Source | None = None,
    declared: Mapping[str, str] | None = None,
) -> Session:
    """Builds the job's pipeline.

    Args:
        job: The job.
        runtime: This process.
        rows: The split that is read, whose types are then known.
        fit_on: Training split from which a dense encoder takes its statistics; ``None`` where a checkpoint brings them.
        declared: What the tasks were declared as, before they were fitted; ``None`` where nothing is to be saved.

    Raises:
        ValueError: If the parts of the job do not fit each other or the platform.
    """
    check_device(job.features.managed_tables, runtime.device)
    training = job.training
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(training.threads or max(1, (os.cpu_count() or 1) // local_ranks))
    torch.manual_seed(training.seed + runtime.rank.index)  # shards must differ; replicated parts are rank 0's
    objective = job.objective()
    if training.freeze:
        freeze(objective, training.freeze, anew(job))
    if fit_on is not None and isinstance(objective.model.dense, DenseEncoder):
        objective.model.dense.fit(runtime.together(lambda: dense_sample(fit_on)))
    pipeline = build_train_pipeline(
        objective,
        training.dense_optimizer,
        training.table_optimizer,
        device=runtime.device,
        constraints=job.sharding,
        batch_size=job.data.batch_size,
        products=None if training.autocast is None else getattr(torch, training.autocast),
    )
    assert isinstance(pipeline._model, DistributedModelParallel)
    start = Position(
        world_size=runtime.rank.world_size,
        batch_size=job.data.batch_size,
        sharding=sharding_of(pipeline._model.plan),
        tables=training.table_optimizer.optimizer.__name__,
        vocabularies=runtime.together(lambda: vocabulary_fingerprints(job.features.ids)),
        features=meanings(job.features) | {f"'{name}' alone": f"{towers}" for name, towers in job.network.only.items()},
        types=None if rows is None else hashed_types(rows),
        frozen=list(training.freeze),
        new=anew(job) if training.freeze else [],
    )
    statistics = {task.name: task.statistics for task in job.tasks if task.statistics}
    labels = {task.name: label_of(task) for task in job.tasks}
    return Session(
        job,
        runtime,
        pipeline,
        start,
        ServingState(statistics, tasks=declared or {}, network=NetworkNames.of(objective), labels=labels),
    )


def open_checkpoint(job: Job, runtime: Runtime, path: Path, rows: Source) -> Session:
    """Builds the job's pipeline around a checkpoint, to evaluate or predict: on any number of ranks, with any sharding.

    Args:
        job: The job.
        runtime: This process.
        path: The checkpoint.
        rows: What is measured or predicted.

    Raises:
        ValueError: If the checkpoint cannot be read or is not of this job.
    """
    serving = ServingState.read(path)
    tasks = serving.restored(job.tasks)
    check_fitted(tasks, str(path))
    still = replace(job.training, freeze=[])  # nothing trains here
    session = open_session(replace(job, tasks=tasks, training=still), runtime, rows)
    load_model(path, session.pipeline, session.start)
    session.calibrate(serving)
    return session


def dense_sample(source: Source, rows: int = 131_072) -> np.ndarray:
    """Dense features ``[N, F]`` of about ``rows`` rows, from row groups spread evenly over a split.

    Every rank reads the same, so that all come to the same statistics.
    """
    return source.converter.dense(source.sample(source.converter.dense_columns, rows))


def open_split(
    job: Job, runtime: Runtime, paths: Sequence[str], split: str | None = None
) -> tuple[Source, LabelReport | None]:
    """Opens a split of the job and checks its schema, ids and labels, the ranks together.

    Args:
        job: The job.
        runtime: This process.
        paths: Files.
        split: "train", "validation" or "test"; ``None`` for rows without labels, to be predicted.

    Raises:
        ValueError: On every rank, where one finds something wrong.
    """
    labelled = split is not None
    keys = job.key_columns if labelled else job.data.keys  # predicting needs no groups
    source = runtime.together(lambda: open_source(paths, job.converter(split, labelled), keys))
    if not labelled:
        return source, None
    counts = runtime.together(lambda: scan_labels(source, runtime.rank))
    return source, report(source, runtime.total(counts))


def anew(job: Job) -> list[str]:
    """Parts that the job declares new and gives no other numbers: inside of what is frozen they train."""
    start = job.training.start_from
    pretrained = {f"tables.{table.name}" for table in job.features.tables if table.pretrained is not None}
    return [] if start is None else [part for part in start.new if part not in pretrained]
