"""Contenders in processes of their own, seen from the benchmark's side."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from examples.benchmark.contender import NotMeasured
from examples.benchmark.workload import Workload


@dataclass(frozen=True)
class Setup:
    """A contender and the processor share that it gets.

    Args:
        name: For reports.
        contender: Import path of its class, ``module:Class``.
        threads: Threads of each rank.
        ranks: Processes.
        multiple: A measurement takes a multiple of so many batches, where it must cover whole blocks of a reader.
    """

    name: str
    contender: str
    threads: int = 2
    ranks: int = 1
    multiple: int = 1


class Processes:
    """A contender's ranks; a context manager that ends them.

    Args:
        setup: What to start.

    Raises:
        NotMeasured: On :meth:`build`, if this machine cannot run the contender.
        RuntimeError: If a process ends with an error; the text ends with what it printed.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        port = _free_port()
        self.logs = [tempfile.TemporaryFile("w+") for _ in range(setup.ranks)]  # noqa: SIM115  # closed on exit
        self.ranks = [self._start(rank, port) for rank in range(setup.ranks)]

    def _start(self, rank: int, port: int) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.setup.threads),
            "RANK": str(rank),
            "WORLD_SIZE": str(self.setup.ranks),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(self.setup.ranks),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "examples.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.logs[rank],
            text=True,
            env=environment,
        )

    def build(self, workload: Workload, data: Path | None = None) -> None:
        """Makes the contender for a workload, in place of the one before."""
        self._ask(
            do="build",
            contender=self.setup.contender,
            workload=asdict(workload),
            data=None if data is None else str(data),
        )

    def run(self, batches: int) -> float:
        """Seconds for so many batches on every rank, those of the slowest."""
        return max(answer["seconds"] for answer in self._ask(do="run", batches=batches))

    def memory(self) -> dict[str, int]:
        """Peak memory, tables and optimizer state in bytes, summed over ranks."""
        answers = self._ask(do="memory")
        return {**answers[0], "peak": sum(answer["peak"] for answer in answers)}

    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        return sum(answer["cpu"] for answer in self._ask(do="clock"))

    def _ask(self, **command: Any) -> list[dict[str, Any]]:
        line = json.dumps(command) + "\n"
        for process in self.ranks:
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except BrokenPipeError:
                pass  # reading its answer finds out why
        answers = [self._answer(rank) for rank in range(len(self.ranks))]
        for answer in answers:
            if "not_measured" in answer:
                raise NotMeasured(answer["not_measured"])
        return answers

    def _answer(self, rank: int) -> dict[str, Any]:
        stdout = self.ranks[rank].stdout
        assert stdout is not None
        if line := stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.logs[rank].seek(0)
        raise RuntimeError(f"{self.setup.name}, rank {rank}, failed:\n{self.logs[rank].read()[-3000:]}")

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, log in zip(self.ranks, self.logs, strict=True):
            process.kill()
            process.communicate()
            log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
