"""Parts of a model that do not train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class Frozen:
    """What of a model keeps its numbers: :func:`~torchrec_mtl.training.freezing.freeze` fills it.

    Args:
        tables: Names of tables.
        modules: Modules that have parameters, none of which trains: they stay in eval mode.
        rows: ``{parameter: mask}`` of parameters of which some rows train; true where a number is kept.
    """

    tables: frozenset[str] = frozenset()
    modules: list[nn.Module] = field(default_factory=list)
    rows: dict[str, Tensor] = field(default_factory=dict)

    def evaluate(self) -> None:
        """Sets the modules to eval mode, so that dropout and batch norm leave what they make as it was."""
        for module in self.modules:
            module.eval()


def frozen_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that have parameters, none of which trains."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
        return
    for child in module.children():
        yield from frozen_modules(child)


def keep_rows(optimizer: Optimizer, masks: dict[nn.Parameter, Tensor]) -> Optimizer:
    """Has an optimizer leave some numbers as they are, bit by bit, whatever it does with gradients of zero.

    Args:
        optimizer: Any torch optimizer.
        masks: ``{parameter: mask}``, true where a number is kept.
    """
    before: dict[nn.Parameter, Tensor] = {}

    def remember(*_: object) -> None:
        before.update({parameter: parameter.detach().clone() for parameter in masks})

    def put_back(*_: object) -> None:
        with torch.no_grad():
            for parameter, mask in masks.items():
                parameter.copy_(torch.where(mask.to(parameter.device), before[parameter], parameter))

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(put_back)
    return optimizer
