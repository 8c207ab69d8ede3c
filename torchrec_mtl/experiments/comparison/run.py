"""One run: a job trained and measured in a process that goes on to the next, or its cost."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from torchrec_mtl.data.source import Source
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.fitting import fit_tasks
from torchrec_mtl.training.job import Job
from torchrec_mtl.training.job_file import overridden, read_job
from torchrec_mtl.training.loop import train
from torchrec_mtl.training.optimizers import table_parameters
from torchrec_mtl.training.session import Session, open_session, open_split
from torchrec_mtl.training.sharding import tables_of

Content = Mapping[str, Any]
WARM_UP, STEPS = 10, 40


def run(content: Content, log: Path) -> dict[str, Any]:
    """Trains a job as ``torchrec-mtl train`` does; its checkpoints, curves and pictures are not kept.

    Args:
        content: What its job file says, but for ``output``.
        log: What it prints.

    Returns:
        ``tasks``: the metrics of its test split, or of its validation split where it has no other; and ``seconds``.
    """
    began = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, redirect_stdout(file), _scratch(log.with_suffix("")) as scratch:
        # a look inside goes with the checkpoint
        job = read_job(overridden(content, {"output": scratch, "training.inside": False}))
        with distributed() as runtime:
            found = train(job, runtime)
    return {"tasks": found, "seconds": time.perf_counter() - began}


@contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    """A folder for a while, empty also where a run of the same name was killed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Args:
        parameters: Number of parameters of everything but the tables.
        table_parameters: Number of parameters of the tables.
        step_ms: Least time of a training step among some dozens, milliseconds; batches are in memory.
    """

    parameters: int
    table_parameters: int
    step_ms: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.table_parameters + other.table_parameters,
            self.step_ms + other.step_ms,
        )


def cost(content: Content) -> Cost:
    """Counts a job's parameters and times its steps in this process."""
    with tempfile.TemporaryDirectory() as scratch, distributed() as runtime:
        job = read_job({**content, "output": scratch})
        rows, _ = open_split(job, runtime, job.data.train, "train")
        job = replace(job, tasks=fit_tasks(job.tasks, rows))
        parameters, tables = count_parameters(job)
        session = open_session(job, runtime, rows, rows)
        return Cost(parameters, tables, _step_ms(session, rows))


def count_parameters(job: Job) -> tuple[int, int]:
    """Numbers of parameters beside and in the tables, of which none is made."""
    objective = job.objective()
    named = dict(objective.named_parameters())
    tables = table_parameters(named, tables_of(objective))
    inside = sum(parameter.numel() for parameter in tables.values())
    return sum(parameter.numel() for parameter in named.values()) - inside, inside


def _step_ms(session: Session, rows: Source) -> float:
    pipeline, reader = session.pipeline, session.reader(rows, shuffled=True)
    with closing(reader.batches()) as read:  # type: ignore[type-var]  # a generator
        batches = cycle([batch for batch, _ in islice(read, WARM_UP + STEPS)])
    pipeline._model.train()
    times = []
    for _ in range(WARM_UP + STEPS):
        began = time.perf_counter()
        pipeline.progress(batches)
        if session.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)  # other programs only make a step longer
