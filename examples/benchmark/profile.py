"""Where a step's time goes, and the floor under it: ``python -m examples.benchmark.profile --help``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch import nn

from examples.benchmark.contender import Contender
from examples.benchmark.ours import Ours
from examples.benchmark.report import markdown_table
from examples.benchmark.torchrec_loop import TorchRecLoop
from examples.benchmark.workload import Workload

GROUPS = {  # the first whose words occur in an operator's name takes it
    "matrix products": ("aten::mm", "addmm", "bmm", "mkldnn"),
    "table update (fused backward)": ("split_embedding_backward", "dense_embedding_codegen", "LookupFunction_De"),
    "table lookup": ("split_embedding_codegen", "bounds_check"),
    "copies and concatenation": ("cat", "copy_", "stack", "index_select", "clone"),
    "dense optimizer": ("adam", "Adam", "sqrt", "addcdiv", "lerp"),
    "activations and elementwise": ("threshold", "clamp", "add", "mul", "sum", "div", "sigmoid", "where", "softmax"),
}
OTHER = "everything else"


def group_of(operator: str) -> str:
    """The group that an operator's time is counted in."""
    return next((name for name, words in GROUPS.items() if any(word in operator for word in words)), OTHER)


def profile(contender: Contender, steps: int) -> dict[str, float]:
    """``{group: self CPU milliseconds a step}`` by ``torch.profiler``, and "step", timed without the profiler."""
    contender.train(5)
    started = time.perf_counter()
    contender.train(steps)
    found: dict[str, float] = defaultdict(float)
    found["step"] = (time.perf_counter() - started) / steps * 1e3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        contender.train(steps)
    for event in recorded.key_averages():
        found[group_of(event.key)] += event.self_cpu_time_total / steps / 1e3
    return found


def products_alone(workload: Workload, steps: int) -> float:
    """Milliseconds of the network's matrix products alone, forward and backward, on inputs that stay in place."""
    width = workload.dense + workload.dimension * len(workload.tables)
    shapes = [(width, 256), (256, 128)] * workload.experts + [(128, 64)] * workload.tasks
    layers = [nn.Linear(*shape) for shape in shapes]
    inputs = {size: torch.randn(workload.batch_size, size, requires_grad=True) for size, _ in shapes}
    gradients = {size: torch.randn(workload.batch_size, size) for _, size in shapes}

    def step() -> None:
        for layer, (size, made) in zip(layers, shapes, strict=True):
            layer(inputs[size]).backward(gradients[made])

    return _median(step, steps)


def _median(step: Callable[[], None], steps: int) -> float:
    seconds = []
    for _ in range(steps + 3):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return median(seconds[3:]) * 1e3


def table_of(ours: dict[str, float], loop: dict[str, float], floor: float) -> str:
    """A Markdown table of both profiles and the floor."""
    rows: list[tuple[str, ...]] = [
        (name, f"{ours.get(name, 0):.1f}", f"{loop.get(name, 0):.1f}") for name in (*GROUPS, OTHER, "step")
    ]
    lookups = ours["table lookup"] + ours["table update (fused backward)"]
    rows.append((f"floor: products alone ({floor:.1f}) + lookups and updates", f"{floor + lookups:.1f}", ""))
    return markdown_table(("ms a step", "ours", "(a) TorchRec loop"), rows)


def main(arguments: list[str] | None = None) -> int:
    """Profiles both loops in this process; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmark.profile",
        description="Profiles a training step of the workload by torch.profiler: ours and the hand-written loop's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--dimension", type=int, default=16, help="of the embeddings")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--steps", type=int, default=20, help="that are timed and profiled")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    workload = Workload(dimension=options.dimension)
    ours, loop = profile(Ours(workload), options.steps), profile(TorchRecLoop(workload), options.steps)
    Console().print(Markdown(table_of(ours, loop, products_alone(workload, options.steps))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
