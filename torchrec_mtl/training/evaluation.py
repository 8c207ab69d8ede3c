"""Predictions and exact metrics over a whole split, on any number of ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.data.lockstep import LockstepIterator
from torchrec_mtl.data.reader import BatchReader
from torchrec_mtl.data.sampling import NegativeSampling, counted
from torchrec_mtl.inside.view import InsideView
from torchrec_mtl.tasks.task import Task
from torchrec_mtl.training.distributed import Runtime

Metrics = dict[str, dict[str, float]]
NO_GROUP = "\0null"  # rows without a group form one of their own


class Predicted(NamedTuple):
    """A batch's rows with their predictions, padding removed."""

    keys: pa.RecordBatch
    predictions: dict[str, np.ndarray]
    labels: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    outputs: dict[str, np.ndarray]


class Rows(NamedTuple):
    """All rows of a split, on rank 0: ``{name: [N] or [N, K]}`` each, and the number of each row's group."""

    predictions: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    groups: np.ndarray | None
    sampling: NegativeSampling | None = None

    def metrics(self, task: Task, prediction: np.ndarray) -> dict[str, float]:
        """A task's metrics with some prediction ``[N]`` or ``[N, K]``: see :func:`task_metrics`."""
        return task_metrics(task, prediction, self.labels, self.weights, self.groups, self.sampling)

    def in_space(self, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mask, target and weight: see :func:`in_space`."""
        return in_space(task, self.labels, self.weights, self.sampling)


def predict(
    pipeline: TrainPipelineSparseDist,
    reader: BatchReader,
    runtime: Runtime,
    advance: Callable[[int], None] = lambda rows: None,
    outputs: Sequence[str] = (),
    inside: InsideView | None = None,
) -> Iterator[Predicted]:
    """Runs this rank's share of a split through the pipeline, without training.

    Every rank must exhaust it: ranks with fewer batches go along with padding.

    Args:
        pipeline: With no batch in flight, as at the end of an epoch.
        reader: This rank's share.
        runtime: This process.
        advance: Told the number of rows after each batch, for a progress bar.
        outputs: Tasks whose outputs are wanted too, as calibration does.
        inside: Watches the rows, without the padding.
    """
    waiting: deque[tuple[MultiTaskBatch, pa.RecordBatch]] = deque()

    def watched() -> Iterator[MultiTaskBatch]:
        for batch, keys in reader.batches():
            waiting.append((batch, keys))
            yield batch

    iterator = LockstepIterator(watched(), reader.padding, runtime.control)
    model = pipeline._model
    was_training = model.training
    model.eval()
    with ExitStack() as at_the_end:
        at_the_end.callback(model.train, was_training)
        if inside is not None:  # what the network computes is the first batch that waits; if none waits, padding
            at_the_end.enter_context(inside.watch(lambda: waiting[0][1].num_rows if waiting else 0))
        while True:
            with torch.no_grad():
                try:
                    output = pipeline.progress(iterator)
                except StopIteration:
                    return
            if not waiting:
                continue  # a batch of padding
            batch, keys = waiting.popleft()
            rows = keys.num_rows
            advance(rows)
            yield Predicted(
                keys,
                {name: values[:rows].cpu().numpy() for name, values in output["predictions"].items()},
                {name: values[:rows] for name, values in batch.labels.items()},
                {name: values[:rows] for name, values in batch.weights.items()},
                {name: output["outputs"][name][:rows].cpu().numpy() for name in outputs},
            )


def collect(
    pipeline: TrainPipelineSparseDist,
    reader: BatchReader,
    runtime: Runtime,
    group: str | None = None,
    advance: Callable[[int], None] = lambda rows: None,
    outputs: Sequence[str] = (),
    inside: InsideView | None = None,
) -> Rows | None:
    """Predictions and labels of a whole split: all rows of all ranks, a few numbers each.

    Args:
        pipeline: See :func:`predict`.
        reader: This rank's share, with the group among its keys.
        runtime: This process.
        group: Key column whose values group the rows for GAUC, for instance the user; nulls are one group.
        advance: Told the number of rows after each batch.
        outputs: See :func:`predict`.
        inside: See :func:`predict`.

    Returns:
        The rows on rank 0; ``None`` elsewhere.
    """
    parts: list[tuple[Any, ...]] = []
    for part in predict(pipeline, reader, runtime, advance, outputs, inside):
        groups = None if group is None else pc.cast(part.keys.column(group), pa.string()).fill_null(NO_GROUP)
        parts.append((part.predictions, part.labels, part.weights, part.outputs, groups))
    gathered = runtime.gather(parts)
    if gathered is None:
        return None
    rows = [part for parts in gathered for part in parts]
    groups = None
    if group is not None:  # as numbers: a group is only ever compared, whatever type its column has
        groups = pa.chunked_array([part[4] for part in rows], pa.string()).combine_chunks().dictionary_encode()
        groups = groups.indices.to_numpy(zero_copy_only=False)
    predictions, labels, weights, raw = (_joined([part[i] for part in rows]) for i in range(4))
    return Rows(predictions, labels, weights, raw, groups, reader.source.converter.sampling)


def metrics_of(tasks: Sequence[Task], rows: Rows) -> Metrics:
    """``{task: {metric: value}}`` of every served task: exact, with no window and no mean of ranks' figures."""
    return {task.name: rows.metrics(task, rows.predictions[task.name]) for task in tasks if task.served}


def task_metrics(
    task: Task,
    prediction: np.ndarray,
    labels: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    groups: np.ndarray | None,
    sampling: NegativeSampling | None = None,
) -> dict[str, float]:
    """A task's metrics over the rows inside its label space, each counted as the rows that it stands for."""
    inside, target, weight = in_space(task, labels, weights, sampling)
    return task.metrics(prediction[inside], target, weight, None if groups is None else groups[inside])


def in_space(
    task: Task,
    labels: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    sampling: NegativeSampling | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask ``[N]`` of the rows inside a task's label space, and target and weight of those inside."""
    tensors, columns = ({name: torch.from_numpy(column) for name, column in part.items()} for part in (labels, weights))
    inside = task.space(tensors).numpy()
    weight = counted(task, tensors, columns, sampling)
    return inside, task.target(tensors).numpy()[inside], weight.numpy()[inside]


def _joined(parts: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in (parts[0] if parts else ())}
