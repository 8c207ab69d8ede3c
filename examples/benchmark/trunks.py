"""Each trunk with its towers against a plain loop: ``python -m examples.benchmark.trunks --help``."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from examples.benchmark import plain_personal_trunks as personal
from examples.benchmark import plain_sequential_trunks as funnels
from examples.benchmark import plain_trunks as plain
from examples.benchmark.measure import spread
from examples.benchmark.report import markdown_table, show_table
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.trunks import (
    AITM,
    CGC,
    DBMTL,
    PLE,
    STEM,
    AdaTT,
    CrossStitch,
    HTLNet,
    MMoE,
    MultiLevelMMoE,
    OMoE,
    PEPNet,
    Separate,
    SharedBottom,
    Trunk,
)

WIDTH = 429  # 13 dense features and 26 embeddings of 16
HEADER = ("trunk", "experts", "tasks", "batch", "plain, ms", "ours, ms", "plain / ours (spread)")


class Size(NamedTuple):
    """What varies."""

    experts: int
    tasks: int
    batch: int


class Side(NamedTuple):
    """A trunk of ours, and the same written plainly."""

    trunk: Callable[[Size], Trunk]
    plain: Callable[[Size], nn.Module]
    has_experts: bool = True


def mixture(trunk: Callable[..., Trunk], plainly: Callable[[int, int, int], nn.Module]) -> Side:
    """A trunk with experts that all tasks share."""
    return Side(
        lambda s: trunk(WIDTH, s.tasks, num_experts=s.experts),
        lambda s: plain.Plain(plainly(WIDTH, s.tasks, s.experts), s.tasks),
    )


def extraction(trunk: Callable[..., Trunk], *levels: tuple[int, ...]) -> Side:
    """A trunk with experts that all tasks share and one of each task's own."""
    return Side(
        lambda s: trunk(WIDTH, s.tasks, shared_experts=s.experts),
        lambda s: plain.Plain(plain.PlainPLE(WIDTH, s.tasks, s.experts, levels), s.tasks),
    )


def other(trunk: Callable[..., Trunk], plainly: Callable[[int, int], nn.Module], width: int = plain.EXPERT[-1]) -> Side:
    """A trunk without shared experts."""
    return Side(lambda s: trunk(WIDTH, s.tasks), lambda s: plain.Plain(plainly(WIDTH, s.tasks), s.tasks, width), False)


TRUNKS = {  # another trunk is one line here and a class in plain_trunks.py
    "SharedBottom": other(SharedBottom, plain.PlainSharedBottom),
    "Separate": other(Separate, plain.PlainSeparate),
    "OMoE": mixture(OMoE, plain.PlainOMoE),
    "MMoE": mixture(MMoE, plain.PlainMMoE),
    "MMoE-sums": mixture(MMoE, plain.PlainMMoEBySums),  # against a plain loop that multiplies and sums
    "MultiLevelMMoE": mixture(MultiLevelMMoE, plain.PlainMultiLevelMMoE),
    "CGC": extraction(CGC, plain.EXPERT),
    "PLE": extraction(PLE, *((width,) for width in plain.EXPERT)),
    "AdaTT": other(AdaTT, plain.PlainAdaTT),
    "CrossStitch": other(CrossStitch, plain.PlainCrossStitch),
    "STEM": Side(
        lambda s: STEM(WIDTH, s.tasks, shared_experts=s.experts),
        lambda s: plain.Plain(personal.PlainSTEM(WIDTH, s.tasks, s.experts), s.tasks),
    ),
    "PEPNet": other(PEPNet, personal.PlainPEPNet),
    "AITM": other(AITM, funnels.PlainAITM),
    "DBMTL": other(DBMTL, funnels.PlainDBMTL, funnels.RELATION),
    "HTLNet": Side(lambda s: HTLNet(WIDTH, s.tasks), lambda s: funnels.PlainHTLNet(WIDTH, s.tasks), False),
}


class Ours(nn.Module):
    """A trunk of ours with its towers: ``[B, D] -> T of [B]``."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        towers = {f"task_{i}": Tower(trunk.out_features, hidden=[plain.TOWER]) for i in range(trunk.num_tasks)}
        self.heads = TaskHeads(towers)
        trunk.bind(towers)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, D]`` to T of ``[B]``."""
        return list(self.heads(self.trunk(features)).values())


def seconds(network: nn.Module, features: Tensor) -> float:
    """Seconds of a forward and backward pass, with gradients of the features too, which come from embeddings."""
    network.zero_grad(set_to_none=True)
    features.grad = None
    started = time.perf_counter()
    torch.stack([output.mean() for output in network(features)]).sum().backward()
    return time.perf_counter() - started


def compare(ours: nn.Module, plain: nn.Module, features: Tensor, rounds: int, least: float = 0.0) -> dict[str, Any]:
    """Measures two networks in turns (A B, B A, …).

    Args:
        ours: The first network.
        plain: The one whose time is divided by ours.
        features: ``[B, D]``.
        rounds: Pairs at least.
        least: Seconds that the measurement takes at least.

    Returns:
        ``ours`` and ``plain`` in milliseconds and the ``ratio`` of each pair, with their spread.
    """
    sides = (ours, plain)
    for side in sides:
        seconds(side, features)  # the first fills caches
        seconds(side, features)
    times: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    while len(times[0]) < rounds or time.perf_counter() - started < least:
        for i in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            times[i].append(seconds(sides[i], features))
    return {
        "ours": spread([1e3 * each for each in times[0]]),
        "plain": spread([1e3 * each for each in times[1]]),
        "ratio": spread([other / one for one, other in zip(*times, strict=True)]),
    }


def sizes(quick: bool, side: Side, experts: Sequence[int]) -> Iterable[Size]:
    """The grid of a trunk; one without experts has no such factor."""
    experts = (0,) if not side.has_experts else experts[:1] if quick else experts
    tasks: Sequence[int] = (2,) if quick else (2, 8, 16)
    return itertools.starmap(Size, itertools.product(experts, tasks, (512,) if quick else (512, 4096)))


def row(name: str, size: Size, found: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    ratio = found["ratio"]
    return (
        name,
        str(size.experts or ""),
        str(size.tasks),
        f"{size.batch:,}",
        f"{found['plain']['median']:.1f}",
        f"{found['ours']['median']:.1f}",
        f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})",
    )


def measure(options: argparse.Namespace, console: Console) -> list[tuple[str, ...]]:
    """Measures the chosen trunks over their grids; gives the lines of the table."""
    cases = [(name, size) for name in options.trunks for size in sizes(options.quick, TRUNKS[name], options.experts)]
    rows = []
    with Progress(console=console) as progress:
        bar = progress.add_task("", total=len(cases))
        for name, size in cases:
            progress.update(bar, description=f"{name}, {size.experts} experts, {size.tasks} tasks, batch {size.batch}")
            torch.manual_seed(0)
            side = TRUNKS[name]
            features = torch.randn(size.batch, WIDTH, requires_grad=True)
            found = compare(Ours(side.trunk(size)), side.plain(size), features, options.rounds, options.seconds)
            rows.append(row(name, size, found))
            progress.advance(bar)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmark.trunks",
        description="Forward and backward of each trunk with its towers, against a plain loop over nn.Sequential "
        "experts, gates and towers. Leave the machine to it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--trunks", nargs="+", choices=list(TRUNKS), default=list(TRUNKS), help="which")
    parser.add_argument("--experts", nargs="+", type=int, default=[4, 16, 64], help="numbers of experts")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--rounds", type=int, default=5, help="pairs at least, of each case")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a case takes at least")
    parser.add_argument("--output", type=Path, help="file for the table, as Markdown")
    parser.add_argument("--quick", action="store_true", help="one small case a trunk, to see that everything works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 2, 0.0
    torch.set_num_threads(options.threads)
    console = Console()
    show_table(markdown_table(HEADER, measure(options, console)), options.output, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
