"""Rounds, ratios and processes."""

import time
from typing import ClassVar

import pytest

from examples.benchmark import measure
from examples.benchmark.contender import NotMeasured
from examples.benchmark.measure import Effort, compare
from examples.benchmark.processes import Processes, Setup
from tests.examples.benchmark.tiny import tiny

PLAIN = Setup("plain", "examples.benchmark.plain_torch:PlainTorch", threads=1)
MIB = 2**20


class Fake:
    """Takes 10 ms a batch, and "slow" twice as long in its third measurement and after."""

    log: ClassVar[list[str]] = []

    def __init__(self, setup):
        self.setup, self.runs = setup, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def build(self, workload, data):
        pass

    def run(self, batches):
        self.runs += 1
        self.log.append(self.setup.name)
        return batches * (0.02 if self.setup.name == "slow" and self.runs > 2 else 0.01)

    def memory(self):
        return {"peak": 10, "tables": 6, "state": 1}


def test_rounds_are_interleaved_and_the_ratio_is_of_each(monkeypatch):
    monkeypatch.setattr(measure, "Processes", Fake)
    Fake.log.clear()
    found = compare(Setup("fast", ""), Setup("slow", "", ranks=2), tiny(), Effort(rounds=3, batches=5))
    assert Fake.log[:4] == ["fast"] * 2 + ["slow"] * 2, "warm-up"
    assert Fake.log[4:] == ["fast", "slow", "slow", "fast", "fast", "slow"]
    # 32 rows in 10 ms; 2 × 32 rows in 20 ms
    assert found["samples_per_second"]["fast"] == pytest.approx({"median": 3200, "min": 3200, "max": 3200})
    assert found["samples_per_second"]["slow"]["median"] == pytest.approx(3200)
    assert found["ratio"] == pytest.approx({"median": 1, "min": 1, "max": 1})
    assert found["memory"]["fast"]["excess"] == 3


def test_slow_contenders_run_fewer_batches():
    effort = Effort(batches=32, seconds=4)
    assert effort.batches_for(0.01) == 32
    assert effort.batches_for(0.5) == 8
    assert effort.batches_for(10) == 2
    assert effort.batches_for(0.5, multiple=16) == 16
    assert Effort(batches=20).batches_for(0.01, multiple=16) == 32


@pytest.mark.slow
def test_a_contender_in_a_process_of_its_own():
    workload = tiny(ids=(100_000,), dimension=64)
    with Processes(PLAIN) as process:
        process.build(workload)
        assert process.run(3) > 0
        memory = process.memory()
        assert memory["tables"] == memory["state"] == 4 * 64 * 100_030
        assert memory["tables"] + memory["state"] < memory["peak"] < 2000 * MIB
        before = process.cpu_seconds()
        time.sleep(1)
        assert process.cpu_seconds() - before < 0.2, "it must not compute while it waits"
        process.setup = Setup("bf16", "examples.benchmark.torch_rechub:TorchRecHub")
        with pytest.raises(NotMeasured, match="only its MMOE is measured"):
            process.build(tiny(network="esmm"))
        process.setup = Setup("nobody", "examples.benchmark.ours:Nobody")
        with pytest.raises(RuntimeError, match=r"(?s)nobody, rank 0, failed:.*Nobody"):
            process.build(workload)


@pytest.mark.slow
def test_two_ranks_train_together():
    with Processes(Setup("ours", "examples.benchmark.ours:Ours", threads=1, ranks=2)) as process:
        process.build(tiny())
        assert process.run(3) > 0
        assert process.memory()["tables"] == 4 * 16 * 87
