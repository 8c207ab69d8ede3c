"""The network between the trunk and one output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_mtl.each_linear import each_linear, elementwise, stacking_pays
from torchrec_mtl.each_network import each_network
from torchrec_mtl.heads.head import Head, read_in_groups
from torchrec_mtl.mlp import PLAIN, LayerOptions, mlp


class Tower(Head):
    """An MLP from a task's vector to its output.

    Args:
        in_features: Width of the task's vector, ``H``: the trunk's ``out_features``.
        hidden: Widths of the hidden layers; none gives a linear tower.
        outputs: Values a row, ``K``.
        options: Normalisation, activation and dropout after each hidden layer.

    Shapes:
        features: ``[B, H]``; returns ``[B]`` if ``K = 1``, else ``[B, K]``, in float32.

    Raises:
        ValueError: If a size is not positive.

    Example::

        Tower(16, hidden=[32])(torch.randn(4, 16)).shape  # torch.Size([4])
    """

    def __init__(
        self,
        in_features: int,
        *,
        hidden: Sequence[int] = (64,),
        outputs: int = 1,
        options: LayerOptions = PLAIN,
    ) -> None:
        super().__init__()
        if in_features < 1 or outputs < 1:
            raise ValueError(
                f"Tower: in_features and outputs must be at least 1, but found in_features={in_features} and "
                f"outputs={outputs}."
            )
        self.in_features = in_features
        self.outputs = outputs
        self.hidden = mlp(in_features, hidden, options)
        self.output = nn.Linear(hidden[-1] if hidden else in_features, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, H]`` to ``[B]`` or ``[B, K]``."""
        output = self.output(self.hidden(features)).float()  # [B, K]
        return output.squeeze(1) if self.outputs == 1 else output

    @classmethod
    def together(cls, heads: Sequence[Head], features: Tensor) -> list[Tensor]:
        """As each head by itself, to rounding; those of one shape by one product a layer, where that pays."""
        if not stacking_pays(features):
            return super().together(heads, features)
        groups: dict[object, dict[int, Tower]] = {}
        for place, head in enumerate(heads):
            assert isinstance(head, Tower)
            groups.setdefault(head._shape() or place, {})[place] = head
        if all(len(group) == 1 for group in groups.values()):
            return super().together(heads, features)
        made: dict[int, Tensor] = {}
        for group, read in zip(groups.values(), read_in_groups(features, groups.values()), strict=True):
            towers = list(group.values())
            outputs = _batched(towers, read) if len(group) > 1 else super().together(towers, read)
            made |= zip(group, outputs, strict=True)
        return [made[place] for place in range(len(heads))]

    def _shape(self) -> object:
        """Equal for towers that may be computed together; ``None`` for one that is not as it was built."""
        layers = [
            module for module in (*self.hidden, self.output) if type(module) is nn.Linear and module.bias is not None
        ]
        after = [module for module in self.hidden if module not in layers]
        built = type(self).forward is Tower.forward and self.output in layers and elementwise(after)
        if not built or any(_watched(module) for module in self.modules()):
            return None
        return tuple((type(module), module.extra_repr(), module.training) for module in self.hidden) or "linear"


def _watched(module: nn.Module) -> bool:
    """Whether hooks expect the module to be called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _batched(towers: Sequence[Tower], features: Tensor) -> list[Tensor]:
    """The outputs of towers whose hidden layers have one shape; ``[B, T, H]`` or ``[B, 1, H]``."""
    x = features if features.shape[1] > 1 else features.squeeze(1)
    hidden = list(zip(*(tower.hidden for tower in towers), strict=True))  # each module of all towers
    outputs = [tower.output for tower in towers]
    alike = len({layer.out_features for layer in outputs}) == 1
    last = [outputs] if alike else []
    if [type(module) for module in towers[0].hidden] == [nn.Linear, nn.ReLU] * (len(hidden) // 2):
        if layers := [*hidden[::2], *last]:
            weights, biases = zip(*map(_stacked, layers), strict=True)
            x = each_network(x, weights, biases, last=not alike)
    else:
        for modules in [*hidden, *last]:
            x = each_linear(x, *_stacked(modules)) if type(modules[0]) is nn.Linear else modules[0](x)
    made = x.unbind(1) if x.ndim == 3 else [x] * len(towers)
    if not alike:
        made = [layer(part) for layer, part in zip(outputs, made, strict=True)]
    return [output.float().squeeze(1) if output.shape[1] == 1 else output.float() for output in made]


def _stacked(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    return torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
