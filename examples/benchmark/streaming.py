"""Memory of the reader alone, over one file and over gigabytes: ``python -m examples.benchmark.streaming FOLDER``."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.benchmark.formats import write_parquet
from examples.benchmark.memory import run_stage
from examples.benchmark.memory_stage import peak_bytes
from examples.benchmark.ours import SHUFFLE_ROWS, make_features, make_tasks
from examples.benchmark.workload import Workload
from torchrec_mtl.data import BatchConverter, BatchReader, ParquetSource


def measure_streaming(size: int, row_groups: int, directory: Path, advance: Callable[[str], None]) -> dict[str, Any]:
    """Reads one file of the workload, and ``size`` bytes of such files, each in a fresh process.

    Args:
        size: Bytes of files; the same file, linked as often as it takes.
        row_groups: Row groups of a file.
        directory: Where the files are; the links are removed at the end.
        advance: Told what is under way.

    Returns:
        For "one" and "all": ``bytes``, ``rows``, ``seconds``, and the ``peak`` over what was resident before.
    """
    file = write_parquet(Workload(), directory, row_groups)
    links = directory / "links"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    count = -(-size // file.stat().st_size)
    found = {}
    try:
        for name, copies in (("one", 1), ("all", count)):
            for i in range(copies):
                if not (links / f"{i:05d}.parquet").exists():
                    os.link(file, links / f"{i:05d}.parquet")
            advance(f"stream {copies * file.stat().st_size / 2**30:.2f} GiB")
            found[name] = run_stage(["-m", "examples.benchmark.streaming", str(links)])
            found[name]["bytes"] = copies * file.stat().st_size
    finally:
        shutil.rmtree(links)
    return found


def read(folder: Path) -> dict[str, float]:
    """One epoch over a folder, shuffled, batches thrown away."""
    workload = Workload()
    converter = BatchConverter(make_features(workload), make_tasks(workload))
    source = ParquetSource(str(folder), converter)
    reader = BatchReader(source, workload.batch_size, seed=0, shuffle_rows=SHUFFLE_ROWS)
    before = peak_bytes()
    started = time.perf_counter()
    rows = sum(keys.num_rows for _, keys in reader.batches())
    seconds = time.perf_counter() - started
    return {"rows": rows, "seconds": seconds, "peak": peak_bytes() - before}


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]))))
