"""From outputs and labels to one scalar over the global batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchrec_mtl.balancers.balancer import Balancer
from torchrec_mtl.balancers.fixed import FixedWeights
from torchrec_mtl.data.sampling import NegativeSampling, counted
from torchrec_mtl.tasks.task import Task

MakeBalancer = Callable[[Sequence[float]], Balancer]
Moved = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]


class MultiTaskLoss(nn.Module):
    r"""One scalar from outputs and labels; every mean is over the **global** batch.

    For task t with label space S, row loss l and row weight w, over the rows of all R ranks:

    .. math:: L_t = \frac{\sum_{i \in S} w_i l_i}{\sum_{i \in S} w_i}

    and 0 if S is empty everywhere. The value is global, the gradient is this rank's share times R. Data-parallel
    training averages gradients over ranks, so the update is that of one process on the concatenated batch: a rank with
    few clicks does not count double, and a rank without any contributes exactly zero. One all-reduce of 2T numbers.

    Args:
        tasks: The tasks, T of them.
        balancer: Makes the balancer from the weights of the trained tasks (those with ``weight > 0``).
        sampling: Which zeros of a label are missing; the rest count ``1/w`` times in :math:`w_i`.
        offset: Tasks whose outputs are those of the rows that were kept while training, and need no such weights then.
        moved: Makes the outputs of the rows that were kept, from those of all rows and the offset of a logit ``[B]``.

    Shapes:
        outputs: ``{name: [B] or [B, K]}``. labels, weights: ``{column: [B]}``.
        Returns ``(scalar, output)`` with the detached ``output``: ``"loss"`` (scalar), ``"losses"``
        (``{task: scalar}``, global means), ``"outputs"`` (``{task: [B] or [B, K]}``, what the tasks read) and
        ``"predictions"`` (the same of the served tasks, as they are served).

    Raises:
        ValueError: If a task's name occurs twice or no task is trained; in forward, if the balancer makes no scalar.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        balancer: MakeBalancer = FixedWeights,
        sampling: NegativeSampling | None = None,
        offset: Collection[str] = (),
        moved: Moved | None = None,
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"Task names must differ, but found {names}.")
        self.tasks = tuple(tasks)
        self.trained = [i for i, task in enumerate(tasks) if task.weight > 0]
        if not self.trained:
            raise ValueError(f"At least one task must be trained (weight above 0), but all of {names} have weight 0.")
        self.balancer = balancer([tasks[i].weight for i in self.trained])
        self.sampling = sampling
        self.offset = frozenset(offset)
        self.moved = moved

    def forward(
        self, outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Maps outputs, labels and weights to the loss and the detached output."""
        if self.sampling is not None and self.moved is not None and self.training:
            kept = self.moved(outputs, self.sampling.offset(weights))
            outputs = {name: (kept if name in self.offset else outputs)[name] for name in outputs}
        sums = [self._sums(task, outputs[task.name], labels, weights) for task in self.tasks]
        numerators, denominators = (torch.stack(part) for part in zip(*sums, strict=True))  # [T]
        totals = torch.stack([numerators.detach(), denominators])  # [2, T]
        ranks = 1
        if dist.is_available() and dist.is_initialized():
            ranks = dist.get_world_size()
            dist.all_reduce(totals)
        scale = torch.where(totals[1] > 0, 1 / totals[1], 0)  # an empty space gives a loss of exactly 0
        share = numerators * (ranks * scale)
        losses = totals[0] * scale + (share - share.detach())  # value: the global mean; gradient: this rank's share
        loss = self.balancer(losses[self.trained])
        if loss.ndim:
            raise ValueError(
                f"{type(self.balancer).__name__} made {list(loss.shape)} of the losses of {len(self.trained)} tasks. A "
                f"balancer makes one number of them, such as their sum()."
            )
        return loss, {
            "loss": loss.detach(),
            "losses": {task.name: losses[i].detach() for i, task in enumerate(self.tasks)},
            "outputs": {task.name: outputs[task.name].detach() for task in self.tasks},
            "predictions": {task.name: task.predict(outputs[task.name]).detach() for task in self.tasks if task.served},
        }

    def _sums(
        self, task: Task, output: Tensor, labels: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        check_width(task, output)
        inside = task.space(labels)  # [B]
        target = task.target(labels)  # [B] or [B, C]
        # a NaN must not reach the loss: its gradient would be NaN
        label = torch.where(inside if target.ndim == 1 else inside.unsqueeze(1), target, 0)
        weight = torch.where(inside, self._row_weights(task, labels, weights), 0)
        rows = torch.where(inside, task.loss(output, label), 0)
        return (weight * rows).sum(), weight.sum()

    def _row_weights(self, task: Task, labels: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        offset = self.training and task.name in self.offset
        return counted(task, labels, weights, None if offset else self.sampling)


def check_width(task: Task, output: Tensor) -> None:
    """Checks that an output has as many values a row as its task takes.

    Raises:
        ValueError: If it has not.
    """
    found = 1 if output.ndim == 1 else output.shape[1]
    if found != task.outputs:
        raise ValueError(
            f"Task '{task.name}' takes {task.outputs} values a row, but its output has {found}. "
            f"Give its tower outputs={task.outputs}, or the task a kind that takes {found}."
        )
