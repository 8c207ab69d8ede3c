"""What was to be reached, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from examples.benchmark import throughput as names
from examples.benchmark.processes import Setup
from examples.benchmark.workload import Workload

MIB = 2**20
MOST_EXCESS = 600 * MIB  # of the peak over tables and optimizer state
MOST_COPIES = 1.15  # of tables and state; a second copy would make 2
MOST_GROWTH = 1.25  # of the reader's memory with the size of the data
MOST_IMPORT = 0.3  # seconds over torchrec's import


@dataclass(frozen=True)
class Ratio:
    """The first contender is to reach ``least`` times the second's rate."""

    first: Setup
    second: Setup
    workload: Workload
    least: float


W16, W64 = Workload(dimension=16), Workload(dimension=64)
E16, E64 = Workload(network="esmm", dimension=16), Workload(network="esmm", dimension=64)
RATIOS = [
    *(Ratio(names.OURS, names.TORCHREC, workload, 0.95) for workload in (W16, W64, E16, E64)),
    Ratio(names.OURS, names.TORCHREC, W16, 1.15),
    Ratio(names.BFLOAT16, names.TORCHREC, W16, 1.6),
    *(Ratio(names.PARQUET, names.OURS, workload, 0.95) for workload in (W16, W64)),
    *(Ratio(names.OURS, peer, W16, 3.5) for peer in (names.RECHUB, names.DEEPCTR)),
    *(Ratio(names.OURS, peer, W64, 6.0) for peer in (names.RECHUB, names.DEEPCTR)),
    Ratio(names.OURS, names.PLAIN, W16, 1.0),
    Ratio(names.OURS, names.PLAIN, W64, 1.2),
    Ratio(names.BFLOAT16, names.OURS, W16, 1.3),
    Ratio(names.TWO_RANKS, names.ONE_RANK, W16, 1.65),
]

Line = tuple[str, str, str]  # goal, measured, met


def goal_lines(results: dict[str, Any]) -> list[Line]:
    """Every goal of the sections that were measured: the goal, the figure, and "yes", "no" or "not measured"."""
    lines: list[Line] = []
    if pairs := results.get("throughput"):
        lines += [_ratio_line(goal, pairs["pairs"]) for goal in RATIOS]
        lines += _excess_lines(pairs["pairs"])
    if memory := results.get("memory"):
        for stage, found in memory["table"]["stages"].items():
            size = memory["table"]["tables"] / 2**30
            goal = f"{stage} with a table of {size:.2f} GiB: no second copy"
            lines.append((goal, f"{found['copies']:.2f} copies", _met(found["copies"] <= MOST_COPIES)))
        lines.append(_streaming_line(memory["streaming"]))
        seconds = memory["import"]["median"]
        goal = f"`import torchrec_mtl` < {MOST_IMPORT} s over `import torchrec`"
        lines.append((goal, f"{seconds:.3f} s", _met(seconds < MOST_IMPORT)))
    return lines


def _streaming_line(found: dict[str, Any]) -> Line:
    one, whole = found["one"], found["all"]
    size, small = whole["bytes"] / 1e9, one["bytes"] / 1e9
    goal = f"the reader's memory over {size:.1f} GB ≤ {MOST_GROWTH} × that over {small:.2f} GB"
    measured = f"{whole['peak'] / MIB:.0f} MiB against {one['peak'] / MIB:.0f} MiB"
    return goal, measured, _met(whole["peak"] <= MOST_GROWTH * one["peak"])


def _ratio_line(goal: Ratio, pairs: list[dict[str, Any]]) -> Line:
    text = f"{goal.first.name} ≥ {goal.least:g} × {goal.second.name}, {goal.workload.name}"
    wanted = (goal.first.name, goal.second.name, goal.workload.name)
    for pair in pairs:
        if (pair["first"], pair["second"], pair["workload"]) == wanted:
            if "not_measured" in pair:
                return text, pair["not_measured"], "not measured"
            ratio = pair["ratio"]
            measured = f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
            return text, measured, _met(ratio["median"] >= goal.least)
    return text, "left out of this run", "not measured"


def _excess_lines(pairs: list[dict[str, Any]]) -> list[Line]:
    """Peak memory of ours in each workload, the worst of all pairs."""
    worst: dict[tuple[str, str], int] = {}
    for pair in pairs:
        for name in (names.OURS.name, names.PARQUET.name):
            if found := pair.get("memory", {}).get(name):
                key = (name, pair["workload"])
                worst[key] = max(found["excess"], worst.get(key, 0))
    return [
        (
            f"peak memory of {name} ≤ tables + optimizer state + {MOST_EXCESS // MIB} MiB, {workload}",
            f"+ {excess / MIB:.0f} MiB",
            _met(excess <= MOST_EXCESS),
        )
        for (name, workload), excess in worst.items()
    ]


def _met(reached: bool) -> str:
    return "yes" if reached else "**no**"
