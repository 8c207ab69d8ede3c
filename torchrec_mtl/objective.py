"""What a TorchRec train pipeline trains: the model and its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchrec_mtl.balancers.fixed import FixedWeights
from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.data.sampling import NegativeSampling
from torchrec_mtl.heads.heads import TaskHeads
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.loss import MakeBalancer, MultiTaskLoss, check_width
from torchrec_mtl.meta import check_meta
from torchrec_mtl.model import MultiTaskModel
from torchrec_mtl.rehearsal import rehearse
from torchrec_mtl.tasks.task import Task


class MultiTaskObjective(nn.Module):
    """The module that TorchRec's train pipelines train: ``batch -> (loss, output)``.

    Args:
        model: Embeddings, trunk and heads.
        tasks: What to train and to measure; each reads the output of its name.
        balancer: Makes the balancer from the trained tasks' weights.
        sampling: Which zeros of a label are missing from the training rows, whose rates the batches carry. While
            training, predictions are those of the rows that were kept; in eval mode, of all rows.

    Raises:
        ValueError: If a task names no output, takes another number of values than its output has, a tower reaches no
            trained task or only without a gradient (its parameters would stay at random, unnoticed), or nothing reads
            a link's output; if no tower predicts the sampled label; if the trunk does not make of two rows what it
            should (see :func:`~torchrec_mtl.rehearsal.rehearse`); or see :meth:`check_meta`.

    Example::

        objective = MultiTaskObjective(model, [BinaryTask("ctr", "click"), BinaryTask("ctcvr", "purchase")])
        loss, output = objective(batch)
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        balancer: MakeBalancer = FixedWeights,
        sampling: NegativeSampling | None = None,
    ) -> None:
        super().__init__()
        heads = model.heads
        check_names(tasks, heads)
        for task in tasks:
            _check_reads(task, tasks, heads)
        _check_trained(heads, [task for task in tasks if task.weight > 0])
        heads.bind({task.name: task.predict for task in tasks if task.served})
        served_tasks = {task.name: task for task in tasks if task.served}
        model.trunk.check_tasks({tower: served_tasks.get(tower) for tower in heads.tower_names}, heads.chains())
        self.model = model
        self.sampled_towers = () if sampling is None else _sampled_towers(sampling, tasks, heads)
        # a term that is not served may be no likelihood: it sees all rows' outputs, and weights, which suit any loss
        served = [task.name for task in tasks if task.served]
        offset = [name for name in served if not heads.sources(name).isdisjoint(self.sampled_towers)]
        rehearse(model.trunk)
        _check_widths(model, tasks)
        # links may branch on shapes, so they must stay out of TorchRec's tracing, to which the loss is a leaf
        self.loss = MultiTaskLoss(tasks, balancer, sampling, offset, self._of_kept_rows)
        if unread := heads.unread(task.name for task in tasks):
            raise ValueError(
                f"Links {unread} are read by no task and no other link. Give each a task of its name (weight 0: only "
                f"measured), or remove it. Tasks: {[task.name for task in tasks]}."
            )
        self.check_meta()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""
        return self.loss.tasks

    def forward(self, batch: MultiTaskBatch) -> tuple[Tensor, dict[str, Any]]:
        """Maps a batch to ``(scalar loss, detached output)``: see :class:`MultiTaskLoss`."""
        return self.loss(self.model(batch), batch.labels, batch.weights)  # outputs of all rows

    def check_meta(self) -> None:
        """Refuses parts on the meta device that ``DistributedModelParallel`` would leave without right values.

        Tables may stand there, and so may modules that start by ``reset_parameters()``, as all of this package do.

        Raises:
            ValueError: If there are such parts; the text names them.
        """
        sequences = self.model.sequences
        tables = (self.model.embeddings, None if sequences is None else sequences.embeddings)
        check_meta(self, [each for each in tables if each is not None])

    def _of_kept_rows(self, outputs: Mapping[str, Tensor], offset: Tensor) -> dict[str, Tensor]:
        return self.model.heads.moved(outputs, dict.fromkeys(self.sampled_towers, offset))


def check_names(tasks: Sequence[Task], heads: TaskHeads) -> None:
    """Checks that every task names an output of the heads.

    Raises:
        ValueError: If one does not.
    """
    for task in tasks:
        if task.name not in heads.names:
            hint = did_you_mean(task.name, heads.names)
            raise ValueError(f"Task '{task.name}' names no output. The towers and links make {list(heads.names)}{hint}")


def _check_widths(model: MultiTaskModel, tasks: Sequence[Task]) -> None:
    """Runs the heads on a row of zeros: links say what they cannot read, and tasks get as many values as they take."""
    heads = model.heads
    modes = [(module, module.training) for module in heads.modules()]  # a tower may have been frozen
    first = next(heads.parameters(), torch.zeros(0))
    width = model.trunk.out_features + (0 if model.sequences is None else model.sequences.task_features)
    heads.eval()
    try:
        with torch.no_grad():
            row = torch.zeros(1, len(heads.tower_names), width, device=first.device, dtype=first.dtype)
            outputs = heads.tower_outputs(
                row, [row.new_zeros(1, more) for more in model.vector.tower_features.values()]
            )
            for name, tower in zip(heads.tower_names, heads.towers, strict=True):
                _check_output(name, tower, outputs[name])
            for task in tasks:
                if task.name in outputs:  # before links read what may be too narrow for its task
                    check_width(task, outputs[task.name])
            outputs = heads.moved(outputs, {})
    finally:
        for module, mode in modes:
            module.training = mode
    for task in tasks:
        check_width(task, outputs[task.name])


def _check_output(name: str, tower: nn.Module, output: Tensor) -> None:
    if list(output.shape) != [1] and not (output.ndim == 2 and output.shape[1] > 1):
        raise ValueError(
            f"Tower '{name}', a {type(tower).__name__}, made {list(output.shape)} of one row. A head makes [B], one "
            f"value a row (squeeze(1) makes it of [B, 1]), or [B, K] of at least two."
        )


def _check_reads(task: Task, tasks: Sequence[Task], heads: TaskHeads) -> None:
    of = heads.reads(task.name)
    predicted = {each.name: each.label for each in tasks if each.served}
    for name, column in zip(of, task.reads, strict=False):
        if predicted.get(name, column) != column:
            raise ValueError(
                f"Task '{task.name}' reads outputs that predict {list(task.reads)}, in this order, but it is made of "
                f"{list(of)}, and '{name}' predicts '{predicted[name]}'. Name them in the other order."
            )


def _check_trained(heads: TaskHeads, trained: Sequence[Task]) -> None:
    reached = frozenset[str]().union(*(heads.trained(task.name, task.stopped) for task in trained))
    if untrained := [name for name in heads.tower_names if name not in reached]:
        read = {name: task.name for task in trained for name in heads.sources(task.name)}
        stopped = {name: read[name] for name in untrained if name in read}
        why = f" Read without a gradient: {stopped}." if stopped else ""
        raise ValueError(
            f"Towers {untrained} reach no trained task, so they would stay at random. Give a task that reads them "
            f"a weight above 0, or remove them. Trained: {[task.name for task in trained]}.{why}"
        )


def _sampled_towers(sampling: NegativeSampling, tasks: Sequence[Task], heads: TaskHeads) -> tuple[str, ...]:
    """Towers whose output is the sampled label's probability over all rows.

    One that predicts it inside a label space gets weights instead: rows outside the space are missing too, which an
    offset of its own would not tell a product that it is part of.
    """
    of_towers = [task for task in tasks if task.served and task.name in heads.tower_names]
    predicting = [task for task in of_towers if task.label == sampling.label]
    if not predicting:
        found = {task.name: task.label for task in of_towers}
        raise ValueError(
            f"Sampling of '{sampling.label}': no tower's task predicts this label, so there is no logit to correct. "
            f"Towers' tasks and their labels: {found}{did_you_mean(sampling.label, found.values())}"
        )
    for task in predicting:
        if task.outputs != 1 or task.needs_fit or float(task.predict(torch.zeros(1, device="cpu"))) != 0.5:
            raise ValueError(
                f"Sampling of '{sampling.label}': task '{task.name}' must predict it as the probability of one logit, "
                f"but is a {type(task).__name__}. Use a BinaryTask, or weight the rows by a sample_weight."
            )
    return tuple(task.name for task in predicting if not task.spaces)
