"""One contender on one rank, in a process of its own, driven line by line: ``python -m examples.benchmark.worker``.

Reads a JSON command a line and answers each with a JSON line. While it waits for one it is blocked on the pipe.
"""

import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import IO, Any

from examples.benchmark.contender import Contender, NotMeasured
from examples.benchmark.workload import Workload


class Server:
    """Builds, runs and measures a contender on command."""

    def __init__(self) -> None:
        self.contender: Contender | None = None

    def build(self, contender: str, workload: dict[str, Any], data: str | None) -> dict[str, Any]:
        """Makes a contender from its import path, in place of the one before."""
        self.contender = None
        gc.collect()
        started = time.perf_counter()
        self.contender = resolve_name(contender)(Workload.parse(workload), None if data is None else Path(data))
        return {"seconds": time.perf_counter() - started}

    def run(self, batches: int) -> dict[str, Any]:
        """Trains and takes the time."""
        assert self.contender is not None, "build first"
        started = time.perf_counter()
        loss = self.contender.train(batches)
        return {"seconds": time.perf_counter() - started, "loss": loss}

    def memory(self) -> dict[str, Any]:
        """Peak resident memory of this process in bytes, and what tables and optimizer state account for."""
        assert self.contender is not None, "build first"
        return {
            "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "tables": self.contender.workload.table_bytes,
            "state": self.contender.state_bytes,
        }

    def clock(self) -> dict[str, Any]:
        """Processor seconds used so far, by all threads."""
        return {"cpu": time.process_time()}


def serve(commands: IO[str], answers: IO[str]) -> None:
    """Answers commands until there are no more."""
    server = Server()
    for line in commands:
        command = json.loads(line)
        try:
            answer = getattr(server, command.pop("do"))(**command)
        except NotMeasured as reason:
            answer = {"not_measured": str(reason)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serves on stdin and stdout; what contenders print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch  # noqa: PLC0415  # after the thread settings

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    serve(sys.stdin, answers)
    os._exit(0)  # no destructor of a process group may wait for a rank that has left


if __name__ == "__main__":
    main()
