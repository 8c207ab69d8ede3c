"""Learning rates that rise at the start of a run and fall towards its end."""

from __future__ import annotations

from dataclasses import dataclass

from torchrec.optim.keyed import KeyedOptimizer


@dataclass(frozen=True)
class Schedule:
    r"""Linear warm-up, constant rate, linear decay, for towers and tables alike.

    At step :math:`s` of :math:`S` every learning rate is multiplied by
    :math:`\min(1, \frac{s + 1}{w},\; f + (1 - f) \frac{S - s}{d S})` with warm-up steps w, decay share d and final f.
    It depends on the step alone, so a resumed run goes on where it was (given the same S: epochs, ranks, batch size).
    The pipeline's ``zero_grad`` hands the rate to FBGEMM before
    the backward pass, so tables and towers change in the same step.

    Args:
        warmup_steps: Steps over which the rates rise from zero, ``w``.
        decay: Share of the run, at its end, over which they fall, ``d`` in ``[0, 1]``; 0 for no decay.
        final: What they fall to, ``f`` in ``[0, 1]``, as a factor.

    Raises:
        ValueError: If a value is out of its range.
    """

    warmup_steps: int = 0
    decay: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or not 0 <= self.decay <= 1 or not 0 <= self.final <= 1:
            raise ValueError(
                f"Schedule: warmup_steps must be at least 0, decay and final must lie in [0, 1], but found {self}."
            )

    def factor(self, step: int, total: int) -> float:
        """The factor of every learning rate at a step of a run of ``total`` steps."""
        rise = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        left = max(0.0, 1 - step / total)
        fall = self.final + (1 - self.final) * left / self.decay if self.decay else 1.0
        return min(1.0, rise, fall)


class ScheduledRates:
    """Applies a schedule to an optimizer's learning rates.

    Args:
        optimizer: The pipeline's optimizer, with the rates at which it was built.
        schedule: The schedule.
        total: Steps of the whole run.
    """

    def __init__(self, optimizer: KeyedOptimizer, schedule: Schedule, total: int) -> None:
        self.groups = [(group, group["lr"]) for group in optimizer.param_groups]
        self.schedule = schedule
        self.total = total

    def set(self, step: int) -> None:
        """Sets every rate for a step that is about to be taken."""
        factor = self.schedule.factor(step, self.total)
        for group, rate in self.groups:
            group["lr"] = rate * factor
