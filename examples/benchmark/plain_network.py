"""The workload's networks, written plainly: what one writes by hand above the embeddings."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from examples.benchmark.workload import Workload


def layers(in_features: int, *widths: int) -> nn.Sequential:
    """Linear layers with ReLU."""
    modules: list[nn.Module] = []
    for width in widths:
        modules += [nn.Linear(in_features, width), nn.ReLU()]
        in_features = width
    return nn.Sequential(*modules)


class PlainMMoE(nn.Module):
    """Experts [256, 128], a gate and a tower [64] a task: ``[B, D] -> [B, T]`` logits."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.experts = nn.ModuleList(layers(workload.width, 256, 128) for _ in range(workload.experts))
        self.gates = nn.ModuleList(nn.Linear(workload.width, workload.experts) for _ in range(workload.tasks))
        self.towers = nn.ModuleList(nn.Sequential(layers(128, 64), nn.Linear(64, 1)) for _ in range(workload.tasks))

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T]``."""
        experts = torch.stack([expert(features) for expert in self.experts], dim=1)  # [B, E, 128]
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = gate(features).softmax(dim=1)  # [B, E]
            logits.append(tower(torch.einsum("be,beh->bh", weights, experts)))
        return torch.cat(logits, dim=1)


class PlainESMM(nn.Module):
    """A tower [256, 128] for CTR and one for CVR: ``[B, D] -> [B, 2]`` logits."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(layers(workload.width, 256, 128), nn.Linear(128, 1)) for _ in range(2)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, 2]``."""
        return torch.cat([tower(features) for tower in self.towers], dim=1)


def plain_network(workload: Workload) -> nn.Module:
    """The workload's network above the embeddings."""
    return PlainMMoE(workload) if workload.network == "mmoe" else PlainESMM(workload)


def plain_loss(workload: Workload, logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of the tasks' mean binary cross-entropies; for ESMM those of CTR and CTCVR.

    Shapes:
        logits, labels: ``[B, T]``; returns a scalar.
    """
    if workload.network == "mmoe":
        return binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=0).sum()
    ctr, cvr = logits.unbind(dim=1)
    log_p = logsigmoid(ctr) + logsigmoid(cvr)
    log_not_p = torch.logaddexp(logsigmoid(-ctr), logsigmoid(ctr) + logsigmoid(-cvr))
    product = -(labels[:, 1] * log_p + (1 - labels[:, 1]) * log_not_p).mean()
    return binary_cross_entropy_with_logits(ctr, labels[:, 0]) + product
