"""What is measured: something that trains on batches of a workload."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from examples.benchmark.workload import Rows, Workload, make_batches

POOL = 8  # different batches in memory, read over and over
Item = TypeVar("Item")


class NotMeasured(Exception):  # noqa: N818  # a finding, not an error
    """A contender that this machine cannot run; the text says why."""


class Contender(ABC):
    """Trains the workload's network; made in a process of its own, for each rank.

    Args:
        workload: What is trained.
        data: Parquet file of its rows, for a contender that reads one.

    Raises:
        NotMeasured: If this machine cannot run it.
    """

    def __init__(self, workload: Workload, data: Path | None = None) -> None:
        self.workload = workload
        self.data = data

    @abstractmethod
    def train(self, batches: int) -> float:
        """Trains on the next ``batches`` batches and returns the last one's loss."""

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Bytes of the optimizer state of the tables, over all ranks, by the optimizer's definition."""

    def rows(self) -> list[Rows]:
        """This rank's batches in memory."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        return make_batches(self.workload, POOL, rank)


def endless(items: list[Item]) -> Iterator[Item]:
    """The items over and over."""
    return cycle(items)


def peer(library: str, workload: Workload, *modules: str) -> list[Any]:
    """Modules of a peer's library, for its MMOE.

    Raises:
        NotMeasured: If the library is not installed, or the workload is not MMoE.
    """
    if workload.network != "mmoe":
        raise NotMeasured("only its MMOE is measured")
    try:
        return [import_module(module) for module in modules]
    except ImportError as error:
        raise NotMeasured(f"{library} is not installed ({error})") from error


def join_group() -> None:
    """Joins the Gloo group that the environment describes, or makes one of this process alone."""
    if dist.is_initialized():
        return
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
