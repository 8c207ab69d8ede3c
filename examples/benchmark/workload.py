"""What is trained: sizes of tables, bags and networks, and rows of made-up impressions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.benchmark.zipf import zipf

EXPONENT = 1.05  # of the ids' frequencies
NETWORKS = ("mmoe", "esmm")


@dataclass(frozen=True)
class Workload:
    """Workload W of the benchmark; every argument is a factor that a curve may vary.

    Args:
        network: "mmoe": experts [256, 128], a tower [64] a task, binary losses. "esmm": a tower [256, 128] for CTR and
            one for CVR on the shared embeddings; CTR and CTCVR = CTR · CVR are trained.
        ids: Rows of the table of each single-valued feature.
        bags: Rows of the table of each bag.
        bag_mean: Mean number of ids in a bag; it is uniform on ``[0, 2 · bag_mean]``.
        dense: Number of dense features, ``F``.
        dimension: Width of an embedding.
        batch_size: Rows of a batch on one rank, ``B``.
        experts: Number of experts, ``E``.
        tasks: Number of towers, ``T``.
        seed: Of rows and weights.

    Raises:
        ValueError: If the network is unknown, or "esmm" has other than two towers.
    """

    network: str = "mmoe"
    ids: tuple[int, ...] = (1_000_000,) * 4 + (100_000,) * 6 + (1_000,) * 16
    bags: tuple[int, ...] = (100_000,) * 4
    bag_mean: int = 10
    dense: int = 13
    dimension: int = 16
    batch_size: int = 4096
    experts: int = 4
    tasks: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"Workload: network must be one of {list(NETWORKS)}, but found '{self.network}'.")
        if self.network == "esmm" and self.tasks != 2:
            raise ValueError(f"Workload: ESMM has two towers, CTR and CVR, but found tasks={self.tasks}.")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Workload":
        """A workload from its dictionary, as JSON gives it back."""
        return cls(**{**values, "ids": tuple(values["ids"]), "bags": tuple(values["bags"])})

    @property
    def name(self) -> str:
        """Network and dimension, for reports."""
        return f"{self.network.upper().replace('MMOE', 'MMoE')}, dimension {self.dimension}"

    @property
    def single(self) -> dict[str, int]:
        """``{single-valued feature: rows of its table}``."""
        return {f"id_{i}": rows for i, rows in enumerate(self.ids)}

    @property
    def bagged(self) -> dict[str, int]:
        """``{bag: rows of its table}``."""
        return {f"bag_{i}": rows for i, rows in enumerate(self.bags)}

    @property
    def tables(self) -> dict[str, int]:
        """``{feature: rows of its table}``, single-valued ones first; a table has the name of its feature."""
        return self.single | self.bagged

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.tables.values())

    @property
    def width(self) -> int:
        """Width of the feature vector, ``D``."""
        return self.dense + self.dimension * len(self.tables)

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables in float32."""
        return 4 * self.dimension * self.rows

    @property
    def labels(self) -> list[str]:
        """Label columns, one a tower."""
        return [f"label_{i}" for i in range(self.tasks)]


@dataclass(frozen=True)
class Rows:
    """Rows of a workload.

    Args:
        ids: ``{single-valued feature: [B] int64}``.
        bags: ``{bag: (values [V] int64, lengths [B] int32)}``.
        dense: ``[B, F]`` float32.
        labels: ``[B, T]`` float32; each label implies the one before it, as in a funnel.
    """

    ids: dict[str, np.ndarray]
    bags: dict[str, tuple[np.ndarray, np.ndarray]]
    dense: np.ndarray
    labels: np.ndarray


def make_rows(workload: Workload, count: int, rng: np.random.Generator) -> Rows:
    """Draws ``count`` rows; the same generator gives the same rows."""
    ids = {name: zipf(EXPONENT, rows, count, rng) for name, rows in workload.single.items()}
    bags = {}
    for name, rows in workload.bagged.items():
        lengths = rng.integers(0, 2 * workload.bag_mean + 1, count, dtype=np.int32)
        bags[name] = zipf(EXPONENT, rows, int(lengths.sum()), rng), lengths
    dense = rng.standard_normal((count, workload.dense), dtype=np.float32)
    happens = rng.random((count, workload.tasks)) < 0.3
    return Rows(ids, bags, dense, np.cumprod(happens, axis=1).astype(np.float32))


def make_batches(workload: Workload, count: int, rank: int = 0) -> list[Rows]:
    """``count`` batches in memory; ranks get different ones."""
    rng = np.random.default_rng([workload.seed, rank])
    return [make_rows(workload, workload.batch_size, rng) for _ in range(count)]
