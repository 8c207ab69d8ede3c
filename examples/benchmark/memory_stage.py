"""One stage of the memory measurement, in a process of its own: ``python -m examples.benchmark.memory_stage``."""

import json
import os
import sys
import time
from pathlib import Path

import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from examples.benchmark.ours import as_batch, make_features, make_objective
from examples.benchmark.workload import Workload, make_batches
from torchrec_mtl.training import TableOptimizer, build_train_pipeline
from torchrec_mtl.training.checkpoint import load_model, save
from torchrec_mtl.training.distributed import Runtime, distributed
from torchrec_mtl.training.position import Position

ROW = 64  # dimension of the table


def workload_of(rows: int) -> Workload:
    """One large table and a tiny network."""
    return Workload(ids=(rows,), bags=(1000,), dimension=ROW, batch_size=256, experts=1)


def build(rows: int) -> TrainPipelineSparseDist:
    """The pipeline, after its first step."""
    workload = workload_of(rows)
    pipeline = build_train_pipeline(
        make_objective(workload, make_features(workload)),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        TableOptimizer(lr=0.05),
        device=torch.device("cpu"),
    )
    pipeline.progress(iter([as_batch(workload, batch) for batch in make_batches(workload, 3)]))
    return pipeline


class Meter:
    """Peak resident memory of each stage, in bytes."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}
        self.restart()

    def restart(self) -> None:
        """Forgets the peak so far (where Linux lets a process do so) and the time."""
        Path("/proc/self/clear_refs").write_text("5")
        self.started = time.perf_counter()

    def take(self, stage: str) -> None:
        """Notes a stage that has ended and begins the next."""
        self.stages[stage] = {"peak": peak_bytes(), "seconds": time.perf_counter() - self.started}
        self.restart()


def status(path: Path = Path("/proc/self/status")) -> dict[str, int]:
    """Memory of this process in KiB: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) for line in lines if line[0] in ("VmRSS:", "VmHWM:")}


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return 1024 * status()["VmHWM"]


def measure(stage: str, rows: int, directory: Path, runtime: Runtime) -> dict[str, dict[str, float]]:
    """Runs "save" (start, then save) or "load" (start, then load)."""
    meter = Meter()
    meter.take("imports")
    pipeline = build(rows)
    meter.take("start")
    if stage == "save":
        save(directory, pipeline, Position(), runtime, keep=1)
    else:
        load_model(directory / "step_00000000", pipeline)
    meter.take(stage)
    return meter.stages


def main() -> None:
    """Prints the peaks of one stage as JSON on the last line."""
    stage, rows, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    with distributed() as runtime:
        print(json.dumps(measure(stage, rows, directory, runtime)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
