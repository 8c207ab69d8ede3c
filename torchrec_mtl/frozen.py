"""Parts of a model that do not train."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class Frozen:
    """What of a model keeps its numbers: :func:`~torchrec_mtl.training.freezing.freeze` fills it.

    Args:
        tables: Names of tables.
        modules: Modules of which nothing trains, see :func:`frozen_modules`: they stay in eval mode.
        rows: ``{parameter: mask}`` of parameters of which some rows train; true where a number is kept.
    """

    tables: frozenset[str] = frozenset()
    modules: list[nn.Module] = field(default_factory=list)
    rows: dict[str, Tensor] = field(default_factory=dict)

    def evaluate(self) -> None:
        """Sets the modules to eval mode, so that dropout and batch norm leave what they make as it was."""
        for module in self.modules:
            module.eval()


def frozen_modules(module: nn.Module, kept: Collection[str] = (), start: str = "") -> Iterator[nn.Module]:
    """The outermost modules that have parameters, none of which trains, or buffers alone, all of which are kept.

    Args:
        module: Where to look.
        kept: Names of the buffers that are kept.
        start: What these names put before the module's own.
    """
    parameters, state = list(module.parameters()), module.state_dict()
    still = not any(parameter.requires_grad for parameter in parameters)
    if still and state and (parameters or all(f"{start}{name}" in kept for name in state)):
        yield module
        return
    for name, child in module.named_children():
        yield from frozen_modules(child, kept, f"{start}{name}.")


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
