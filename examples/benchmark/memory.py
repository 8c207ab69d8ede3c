"""Memory with one large table, and the time that an import takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from examples.benchmark.memory_stage import workload_of

_IMPORTS = """
import time, torchrec
started = time.perf_counter()
import torchrec_mtl
print(time.perf_counter() - started)
"""


def measure_memory(rows: int, directory: Path, advance: Callable[[str], None]) -> dict[str, Any]:
    """Starts, saves and loads a model around a table of ``rows`` rows, in fresh processes.

    Args:
        rows: Rows of the table, of dimension 64.
        directory: Where the checkpoint is written; removed at the end.
        advance: Told what is under way.

    Returns:
        Bytes of ``tables``, ``state`` and of ``imports`` (resident before anything is built), and for "start", "save"
        and "load" the ``peak``, the ``copies`` of tables and state that it holds beyond the imports, and ``seconds``.
    """
    workload = workload_of(rows)
    held = workload.table_bytes + 4 * workload.rows
    shutil.rmtree(directory, ignore_errors=True)
    stages: dict[str, Any] = {}
    try:
        for stage in ("save", "load"):
            advance(f"{stage} a table of {workload.table_bytes / 2**30:.2f} GiB")
            arguments = ["-m", "examples.benchmark.memory_stage", stage, str(rows), str(directory)]
            stages = {**run_stage(arguments), **stages}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    imports = stages.pop("imports")["peak"]
    for stage in stages.values():
        stage["copies"] = (stage["peak"] - imports) / held
    return {"tables": workload.table_bytes, "state": 4 * workload.rows, "imports": imports, "stages": stages}


def measure_import(rounds: int, advance: Callable[[str], None]) -> dict[str, float]:
    """Seconds that ``import torchrec_mtl`` takes after ``import torchrec``, in fresh interpreters."""
    advance("import torchrec_mtl")
    script = [sys.executable, "-c", _IMPORTS]
    seconds = [
        float(subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()[-1])
        for _ in range(rounds)
    ]
    return {"median": median(seconds), "min": min(seconds), "max": max(seconds)}


def run_stage(arguments: list[str]) -> dict[str, Any]:
    """Runs a module in a fresh interpreter and reads the JSON on its last line."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
