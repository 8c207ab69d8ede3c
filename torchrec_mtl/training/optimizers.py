"""Optimizers of tables and towers, and the refusal of what the platform would silently ignore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torchrec.distributed.utils import optimizer_type_to_emb_opt_type
from torchrec.optim import RowWiseAdagrad

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

# FBGEMM's CPU kernels know these and honour nothing beyond the learning rate and these options.
_FUSED_ON_CPU: dict[str, set[str]] = {"SGD": set(), "Adagrad": {"eps"}, "RowWiseAdagrad": {"eps"}}
# TorchRec's own SGD, Adagrad and Adam are placeholders for the fused kernels: they cannot step a replicated table.
_STEPPING: dict[str, type[Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adagrad": torch.optim.Adagrad,
    "RowWiseAdagrad": RowWiseAdagrad,
    "Adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class TableOptimizer:
    """How embedding tables learn.

    SGD, Adagrad and RowWiseAdagrad run fused in the backward pass, on CPU and GPU. Adam is fused on GPU; on CPU, where
    FBGEMM has no such kernel, it takes the dense route: the tables are replicated (data_parallel) and ``torch.optim``
    steps them, at the cost of a dense gradient of every table.

    Args:
        optimizer: Class, for instance ``torchrec.optim.RowWiseAdagrad`` or ``torch.optim.SGD``.
        lr: Learning rate.
        options: Further arguments of the optimizer, for instance ``{"eps": 1.0e-8}``.

    Raises:
        ValueError: If the learning rate is not positive or FBGEMM has no such optimizer.
    """

    optimizer: type[Optimizer] = RowWiseAdagrad
    lr: float = 0.05
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"Table optimizer: lr must be positive, but found {self.lr}.")
        try:
            optimizer_type_to_emb_opt_type(self.optimizer)
        except ValueError as error:
            raise ValueError(
                f"Table optimizer: FBGEMM has no {self.optimizer.__name__} for embedding tables. "
                f"Use one of {sorted(_STEPPING)}."
            ) from error

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the optimizer; ``eps`` is always named, since FBGEMM's default differs from torch's."""
        eps = {"eps": 1e-8} if "eps" in _FUSED_ON_CPU.get(self.optimizer.__name__, ()) else {}
        return {"lr": self.lr, **eps, **self.options}

    def is_dense(self, device: torch.device) -> bool:
        """Whether the tables take the dense route on this device."""
        return device.type == "cpu" and self.optimizer.__name__ == "Adam"

    def check(self, device: torch.device) -> None:
        """Refuses what FBGEMM's kernels would ignore on this device.

        Raises:
            ValueError: If the optimizer or one of its options has no effect there.
        """
        name = self.optimizer.__name__
        if "momentum" in self.options and name == "SGD":
            raise ValueError(
                "Table optimizer SGD: FBGEMM's kernel silently ignores ['momentum'], so it is refused. Use plain SGD, "
                "RowWiseAdagrad, Adagrad or Adam."
            )
        if device.type != "cpu" or self.is_dense(device):
            return
        if name not in _FUSED_ON_CPU:
            raise ValueError(
                f"Table optimizer {name} has no CPU kernel. On CPU use RowWiseAdagrad, Adagrad or SGD (fused in the "
                f"backward pass), or Adam (dense route)."
            )
        if ignored := sorted(set(self.options) - _FUSED_ON_CPU[name]):
            allowed = sorted(_FUSED_ON_CPU[name]) or "none"
            raise ValueError(
                f"Table optimizer {name}: FBGEMM's CPU kernel silently ignores {ignored}, so it is refused. "
                f"Options that count on CPU: {allowed}."
            )

    def stepping(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """An optimizer that steps replicated tables by itself, with the same mathematics as the fused kernel.

        Raises:
            ValueError: If there is none of this kind.
        """
        name = self.optimizer.__name__
        if name not in _STEPPING:
            raise ValueError(
                f"Table optimizer {name} cannot step data_parallel tables. Use one of {sorted(_STEPPING)}."
            )
        return _STEPPING[name](parameters, **self.arguments)


def table_parameters(named: Mapping[str, nn.Parameter], tables: Iterable[str]) -> dict[str, nn.Parameter]:
    """Those of the named parameters that are embedding tables.

    TorchRec names them ``….embedding_bags.<table>.weight``, and ``….embeddings.<table>.weight`` in a collection for
    sequences.
    """
    endings = tuple(f".{kind}.{table}.weight" for table in tables for kind in ("embedding_bags", "embeddings"))
    return {name: parameter for name, parameter in named.items() if name.endswith(endings)}
