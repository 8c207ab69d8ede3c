"""Two contenders side by side: interleaved rounds, and the ratio of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from examples.benchmark.processes import Processes, Setup
from examples.benchmark.workload import Workload

WARM_UP = 2  # batches: the first fill caches and pipelines


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        rounds: Measurements of each contender.
        batches: Batches of a measurement at most.
        seconds: Slow contenders run fewer, so that a measurement takes about so long.
    """

    rounds: int = 5
    batches: int = 32
    seconds: float = 3.0

    def batches_for(self, step: float, multiple: int = 1) -> int:
        """Batches of a measurement, for a contender whose step takes ``step`` seconds."""
        wanted = max(2, min(self.batches, round(self.seconds / step)))
        return -(-wanted // multiple) * multiple


def compare(
    first: Setup,
    second: Setup,
    workload: Workload,
    effort: Effort,
    data: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measures two contenders in turns (A B, B A, A B, …), each in processes of its own; only one computes at a time.

    Args:
        first: The one that the ratio is of.
        second: The one that it is compared with.
        workload: What both train.
        effort: Rounds and batches.
        data: Parquet file of the workload's rows.
        tick: Called after each round.

    Returns:
        ``samples_per_second`` and ``memory`` of each, and the ``ratio`` of each round's rates, with its spread.

    Raises:
        NotMeasured: If this machine cannot run one of them.
    """
    with Processes(second) as b, Processes(first) as a:
        sides = (a, b)
        steps = []
        with ThreadPoolExecutor() as pool:  # building is not measured
            list(pool.map(lambda side: side.build(workload, data), sides))
        for side in sides:
            side.run(WARM_UP)
            steps.append(side.run(WARM_UP) / WARM_UP)
        multiple = max(first.multiple, second.multiple)  # the same for both: a round compares like with like
        batches = [effort.batches_for(step, multiple) for step in steps]
        rates: tuple[list[float], list[float]] = ([], [])
        for turn in range(effort.rounds):
            for i in (0, 1) if turn % 2 == 0 else (1, 0):
                rows = batches[i] * workload.batch_size * sides[i].setup.ranks
                rates[i].append(rows / sides[i].run(batches[i]))
            tick()
        memory = [side.memory() for side in sides]
    return {
        "workload": workload.name,
        "first": first.name,
        "second": second.name,
        "ratio": spread([one / other for one, other in zip(*rates, strict=True)]),
        "samples_per_second": {first.name: spread(rates[0]), second.name: spread(rates[1])},
        "memory": {first.name: with_excess(memory[0]), second.name: with_excess(memory[1])},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def with_excess(memory: dict[str, int]) -> dict[str, int]:
    """Adds what the peak has beyond tables and optimizer state."""
    return {**memory, "excess": memory["peak"] - memory["tables"] - memory["state"]}
