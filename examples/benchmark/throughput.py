"""The pairs that are measured side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.benchmark.contender import NotMeasured
from examples.benchmark.formats import write_parquet
from examples.benchmark.measure import Effort, compare
from examples.benchmark.processes import Setup
from examples.benchmark.workload import Workload

HERE = "examples.benchmark"
OURS = Setup("ours", f"{HERE}.ours:Ours")
PARQUET = Setup("ours, from Parquet", f"{HERE}.ours:OursFromParquet", multiple=16)  # whole blocks of the reader
BFLOAT16 = Setup("ours, bf16", f"{HERE}.ours:OursBFloat16")
ONE_RANK = Setup("ours, 1 rank × 1 thread", f"{HERE}.ours:Ours", threads=1)
TWO_RANKS = Setup("ours, 2 ranks × 1 thread", f"{HERE}.ours:Ours", threads=1, ranks=2)
TORCHREC = Setup("(a) TorchRec loop", f"{HERE}.torchrec_loop:TorchRecLoop")
PLAIN = Setup("(b) plain PyTorch", f"{HERE}.plain_torch:PlainTorch")
RECHUB = Setup("(c) torch-rechub", f"{HERE}.torch_rechub:TorchRecHub")
DEEPCTR = Setup("(c) deepctr-torch", f"{HERE}.deepctr_torch:DeepCTRTorch")


@dataclass(frozen=True)
class Pair:
    """Two contenders on one workload."""

    first: Setup
    second: Setup
    workload: Workload


def pairs(dimensions: tuple[int, ...] = (16, 64)) -> list[Pair]:
    """All that are measured; those that matter most come first."""
    found = []
    for dimension in dimensions:
        mmoe = Workload(dimension=dimension)
        found += [Pair(OURS, other, mmoe) for other in (TORCHREC, PLAIN, RECHUB, DEEPCTR)]
        found += [Pair(PARQUET, OURS, mmoe), *(Pair(BFLOAT16, other, mmoe) for other in (OURS, TORCHREC))]
        esmm = Workload(network="esmm", dimension=dimension)
        found += [Pair(OURS, other, esmm) for other in (TORCHREC, PLAIN)]
    return [*found, Pair(TWO_RANKS, ONE_RANK, Workload())]


def quick_pairs(dimension: int = 16) -> list[Pair]:
    """Each contender once, and both networks, at one dimension."""
    chosen: dict[object, Pair] = {}
    for pair in pairs((dimension,)):
        chosen.setdefault((pair.first, pair.second if pair.workload.network == "mmoe" else pair.workload), pair)
    return [pair for pair in chosen.values() if (pair.first, pair.second) != (BFLOAT16, TORCHREC)]


def measure_throughput(
    chosen: list[Pair], effort: Effort, data: Path, row_groups: int, advance: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measures pair after pair.

    Args:
        chosen: What to measure.
        effort: Rounds and batches.
        data: Folder for the Parquet files.
        row_groups: Row groups of a file.
        advance: Told what is under way, once a pair.

    Returns:
        One dictionary a pair: see :func:`~examples.benchmark.measure.compare`; where one of the two cannot run, it has
        the reason as ``not_measured`` instead of figures.
    """
    results = []
    for pair in chosen:
        advance(f"{pair.first.name} / {pair.second.name}, {pair.workload.name}")
        started = time.monotonic()
        try:
            file = write_parquet(pair.workload, data, row_groups) if PARQUET in (pair.first, pair.second) else None
            results.append(compare(pair.first, pair.second, pair.workload, effort, file))
        except NotMeasured as reason:
            names = {"workload": pair.workload.name, "first": pair.first.name, "second": pair.second.name}
            results.append({**names, "not_measured": str(reason)})
        results[-1]["took_seconds"] = time.monotonic() - started
    return results
