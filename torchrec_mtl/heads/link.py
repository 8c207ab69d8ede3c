"""The contract of every relation between outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor, nn


class Link(nn.Module, ABC):
    """Makes one more output from others: a funnel's product, an expected value.

    Args:
        name: Name of the output it makes.
        of: Names of the outputs it reads: towers' or other links'.

    Raises:
        ValueError: If it reads nothing, itself, or an output twice.
    """

    def __init__(self, name: str, of: Sequence[str]) -> None:
        super().__init__()
        if not name or not of or name in of or len(set(of)) != len(of):
            raise ValueError(
                f"{type(self).__name__} '{name}': 'of' must name other outputs, each once, but found {list(of)}."
            )
        self.name = name
        self.of = tuple(of)

    def trained(self, stopped: Collection[int] = ()) -> tuple[str, ...]:
        """Names of the outputs read that a gradient at this one reaches, if it spares its ``stopped`` values."""
        return self.of

    @property
    def steps(self) -> tuple[str, ...]:  # most are no chain
        """Names of the outputs read that are steps of a funnel, in its order."""
        return ()

    @abstractmethod
    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Maps ``{name: output}`` to one more output, ``[B]`` or ``[B, K]``. A probability is given as its logit."""

    def logits(self, outputs: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        """The named outputs in float32, each one logit a row, ``[B]``.

        Raises:
            ValueError: If one has several values a row.
        """
        for name in names:
            if outputs[name].ndim != 1:
                raise ValueError(
                    f"{type(self).__name__} '{self.name}' reads '{name}' as one logit a row, but it has "
                    f"{outputs[name].shape[1]} values. Name an output of one value, or give its tower outputs=1."
                )
        return [outputs[name].float() for name in names]

    def bind(self, predict: Mapping[str, Callable[[Tensor], Tensor]]) -> None:  # most have no use for it
        """Tells the link what each task makes of its output, ``{name: output -> prediction}``, once tasks are known.

        Raises:
            ValueError: If the link needs the prediction of an output that no task reads.
        """
