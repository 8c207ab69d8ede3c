"""How the cost of a step grows: one factor at a time around a small W."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from examples.benchmark.measure import Effort
from examples.benchmark.processes import Processes, Setup
from examples.benchmark.workload import Workload

# W with smaller tables, so that a point is built in a second
BASE = Workload(ids=(100_000,) * 4 + (10_000,) * 6 + (1_000,) * 16, bags=(10_000,) * 4)


def _table_rows(rows: int) -> Workload:
    return replace(BASE, ids=(rows // 4,) * 4 + BASE.ids[4:])


def _features(count: int) -> Workload:
    return replace(BASE, ids=(10_000,) * count)


FACTORS: dict[str, tuple[Callable[[int], Workload], Sequence[int]]] = {
    "table rows": (_table_rows, (10**5, 10**6, 10**7, 3 * 10**7, 10**8)),
    "ids per bag": (lambda mean: replace(BASE, bag_mean=mean), (1, 3, 10, 30, 100)),
    "features": (_features, (10, 30, 100, 250, 500)),
    "experts": (lambda count: replace(BASE, experts=count), (1, 2, 4, 8, 16, 32)),
    "tasks": (lambda count: replace(BASE, tasks=count), (1, 2, 4, 8, 16)),
    "batch size": (lambda size: replace(BASE, batch_size=size), (256, 1024, 4096, 16_384)),
}
SHARE = 0.6  # of the available memory that tables and optimizer state may take


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that programs may still take."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"{meminfo} has no line 'MemAvailable:'; this benchmark needs Linux 3.14 or later.")


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    r"""The power :math:`k` of :math:`y \propto x^k`: the least-squares slope of log y against log x.

    Raises:
        ValueError: If there are fewer than two points.
    """
    if len(x) < 2:
        raise ValueError(f"An exponent needs at least two points, but found {len(x)}.")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def upper_half(points: Sequence[float]) -> Sequence[float]:
    """The larger half of the points, and at least two."""
    return points[-max(2, (len(points) + 1) // 2) :]


def measure_curves(
    setup: Setup, effort: Effort, advance: Callable[[str], None], most: int | None = None
) -> dict[str, dict[str, Any]]:
    """Measures every curve in one process, which builds point after point.

    Args:
        setup: What is measured.
        effort: Rounds and batches of a point.
        advance: Told what is under way, once a point.
        most: Points of a curve at most, for a quick run.

    Returns:
        ``{factor: {"x": …, "ms_per_step": …, "samples_per_second": …, "exponent": …, "exponent_upper_half": …,
        "stopped": why points are missing, or None}}``.
    """
    budget = SHARE * available_memory()
    curves = {}
    with Processes(setup) as process:
        for factor, (vary, values) in FACTORS.items():
            x, ms, rates, stopped = [], [], [], None
            for value in values[:most]:
                advance(f"{factor} = {value:,}")
                workload = vary(value)
                needed = workload.table_bytes + 4 * workload.rows
                if needed > budget:
                    stopped = f"{value:,} would take {needed / 2**30:.1f} GiB of {budget / 2**30:.1f} GiB"
                    continue
                seconds = _step(process, workload, effort)
                x.append(value)
                ms.append(1000 * seconds)
                rates.append(workload.batch_size / seconds)
            curves[factor] = {
                "x": x,
                "ms_per_step": ms,
                "samples_per_second": rates,
                "exponent": exponent(x, ms),
                "exponent_upper_half": exponent(upper_half(x), upper_half(ms)),
                "stopped": stopped,
            }
    return curves


def _step(process: Processes, workload: Workload, effort: Effort) -> float:
    process.build(workload)
    process.run(2)
    batches = effort.batches_for(process.run(2) / 2)
    return median(process.run(batches) / batches for _ in range(effort.rounds))
