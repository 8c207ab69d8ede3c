"""Towers along a funnel that ends in a value, each told the predicted labels and the vectors of all before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.meta import real_device
from torchrec_mtl.mlp import PLAIN, LayerOptions, mlp
from torchrec_mtl.trunks.annealing import Annealing
from torchrec_mtl.trunks.fusion import Fusion
from torchrec_mtl.trunks.labels import Labels
from torchrec_mtl.trunks.levels import check_layers
from torchrec_mtl.trunks.sequential import SequentialTrunk
from torchrec_mtl.trunks.task_parts import Listed, TaskPart

if TYPE_CHECKING:
    from torchrec_mtl.tasks.task import Task

ANNEALING = Annealing(start=10.0, decay=0.9, every=5000, floor=0.5)


class HTLNet(SequentialTrunk):
    r"""Hybrid targets learning network: discrete tasks in funnel order, then as a rule a continuous one.

    .. math::
        rep^t &= f_t([\mathrm{fuse}_{j<t}(\mathrm{sg}(rep^j)) \mid \mathrm{fuse}_{j<t}(le^j) \mid x]), \qquad
        le^j = w^j E^j_1 + (1 - w^j) E^j_0 \\
        w^j &= \mathrm{sg}\,\sigma\!\left(\frac{a^j + \ln u - \ln(1 - u)}{\tau}\right), \qquad u \sim U(0, 1), \qquad
        a^j = \mathrm{tower}_j(rep^j)

    The output for task t is :math:`rep^t`; the first reads x alone. :math:`E^j` are the two embeddings of label j. The
    label is never the true one but drawn by Gumbel-softmax from the tower's own prediction :math:`p = \sigma(a)`: for
    two classes, logistic noise on the logit. The temperature falls with the training steps, which the checkpoint
    counts. ``fuse`` is :class:`~torchrec_mtl.trunks.fusion.Fusion`, one of vectors and one of labels for each task.

    **Gradients** stop (sg) at what is passed on, :math:`rep^j` and :math:`p^j`: a later task reaches an earlier one
    through x alone, which all share. :math:`E^j` and the fusions learn from the tasks that read them.

    In eval mode the noise is left out, :math:`w = \sigma(a / \tau)`: the median of the draws at the same temperature.
    (p itself lies far from anything seen in training while :math:`\tau` is large.) Towers are called for :math:`a^j` as
    in eval mode, so that a label is drawn from what is served, before calibration: dropout acts once in a step, and no
    batch norm counts a batch twice. Every tower but the last must give one logit, and is read as that of a probability
    whether or not a task is named like it.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        layers: Widths of each task's layers; the last is ``H``.
        label_features: Width of a label's embedding, ``L``.
        annealing: The temperature :math:`\tau` after each number of training steps.
        options: Normalisation, activation and dropout after each layer.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no layer, or a size is not positive; by :meth:`bind`, if a tower reads more than the
            trunk's vector; by :meth:`check_tasks`, if the tasks contradict the order or one that is not the last is no
            probability of one logit; on use, if no towers are bound.

    Source: Tang et al., Touch the Core: Exploring Task Dependence Among Hybrid Targets for Recommendation, RecSys 2024
    (arXiv 2403.17442), of which no code is public. Gradients that stop at the outputs of its two units would leave E
    and the fusions untrained: here they stop at the inputs. Ours are the fusions of each task's own and the eval mode;
    logistic noise is the difference of two Gumbel draws. Its adjustment of gradients is a balancer's work.

    Example::

        trunk = HTLNet(in_features=8, num_tasks=2, layers=[32, 16])
        trunk.bind({"click": Tower(16), "value": Tower(16)})  # as MultiTaskModel does
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    reads_towers = True
    steps: Tensor

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        layers: Sequence[int] = (256, 128),
        label_features: int = 16,
        annealing: Annealing = ANNEALING,
        options: LayerOptions = PLAIN,
    ) -> None:
        if not layers or label_features < 1:
            raise ValueError(
                f"HTLNet: layers must name at least one width and label_features be at least 1, but found "
                f"layers={list(layers)} and label_features={label_features}."
            )
        check_layers("HTLNet", layers)
        super().__init__(in_features, num_tasks, layers[-1])
        told = self.out_features + label_features
        self.own = nn.ModuleList(mlp(in_features + (told if t else 0), layers, options) for t in range(num_tasks))
        self.labels = Labels(num_tasks - 1, label_features)
        before = range(1, num_tasks)
        self.fuse_vectors = nn.ModuleList(Fusion(self.out_features, sources, bias=True) for sources in before)
        self.fuse_labels = nn.ModuleList(Fusion(label_features, sources, bias=True) for sources in before)
        self.annealing = annealing
        self.register_buffer("steps", torch.tensor(0, device=real_device()))
        self._towers: tuple[nn.Module, ...] = ()  # a tuple: the heads own them, so they are no children here

    @property
    def temperature(self) -> Tensor:
        """The temperature of the next draw, a scalar on the trunk's device."""
        return self.annealing.at(self.steps)

    def bind(self, towers: Mapping[str, nn.Module]) -> None:
        """Takes the towers whose predictions are the labels."""
        if len(towers) != self.num_tasks:
            raise ValueError(f"HTLNet has {self.num_tasks} tasks, but found {len(towers)} towers: {list(towers)}.")
        for name, tower in towers.items():
            if (reads := getattr(tower, "in_features", self.out_features)) != self.out_features:
                raise ValueError(
                    f"HTLNet asks tower '{name}' for its prediction, so the tower must read the trunk's "
                    f"{self.out_features} features alone, but it reads {reads}. Let no features (network.only) be "
                    f"for this tower alone, share the sequences' attention blocks between the tasks, or take another "
                    f"trunk."
                )
        self._towers = tuple(towers.values())

    def check_tasks(self, tasks: Mapping[str, Task | None], chains: Sequence[Sequence[str]] = ()) -> None:
        """Refuses tasks that contradict the order, and any but probabilities of one logit before the last tower."""
        super().check_tasks(tasks, chains)
        for name, task in list(tasks.items())[:-1]:
            if task is not None and (task.continuous or task.outputs != 1):
                raise ValueError(
                    f"HTLNet embeds the labels of all towers but the last, so each must give the probability of one "
                    f"logit, but task '{name}' is a {type(task).__name__}. Declare it last, or take AITM or DBMTL."
                )

    def arguments(self) -> dict[str, str]:
        """The annealing: labels are served at the temperature that it gives."""
        return {"annealing": repr(self.annealing)}

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose: a label's embedding is the next task's, the first that reads it."""
        later = Listed(first=1)
        return {"own": Listed(), "labels": later, "fuse_vectors": later, "fuse_labels": later}

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        if self.num_tasks > 1 and not self._towers:
            raise ValueError(
                "HTLNet does not know the towers yet, whose predictions are its labels. Build the "
                "MultiTaskModel(embeddings, trunk, heads) first, or call bind({name: tower}) with all of them."
            )
        found = [self.own[0](features)]
        vectors: list[Tensor] = []  # of the tasks so far, cut from their graph
        labels: list[Tensor] = []
        for t in range(1, self.num_tasks):
            vectors.append(found[-1].detach())
            labels.append(self._label(t - 1, vectors[-1]))
            told = [self.fuse_vectors[t - 1](vectors), self.fuse_labels[t - 1](labels)]
            found.append(self.own[t](torch.cat([*told, features], dim=1)))
        if self.training and self.own[0].training:  # where the first step is frozen, so is what the others are told
            self.steps += 1
        return torch.stack(found, dim=1)  # [B, T, H]

    def wirings(self) -> dict[str, Wiring]:
        """Which tasks each fusion weighs for which, for the inside view."""
        return {
            f"{fuse}.{t - 1}": Wiring(experts=range(t), readers=[t])
            for fuse in ("fuse_vectors", "fuse_labels")
            for t in range(1, self.num_tasks)
        }

    def _label(self, task: int, vector: Tensor) -> Tensor:
        """A task's vector, ``[B, H]``, to the embedding of its predicted label, ``[B, L]``."""
        with torch.no_grad(), _evaluated(self._towers[task]) as tower:
            logit = tower(vector).float()
        if logit.ndim != 1:
            raise ValueError(
                f"HTLNet embeds the labels of all towers but the last, so each must give one logit a row, but tower "
                f"{task + 1} of {self.num_tasks} gives {list(logit.shape[1:])} values. Declare it last."
            )
        if self.training:
            u = torch.rand_like(logit)
            logit = logit + u.log() - (-u).log1p()  # infinite at u = 0, where the weight is 0
        weight = (logit / self.temperature).sigmoid()
        table = self.labels[task]
        return torch.stack([weight, 1 - weight], dim=1).to(table.dtype) @ table


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode; afterwards each part is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield module
    finally:
        for part in training:
            part.training = True
