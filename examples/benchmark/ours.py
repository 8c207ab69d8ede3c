"""The project, through its public interface alone."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import EmbeddingBagCollection

from examples.benchmark.contender import Contender, NotMeasured, endless, join_group
from examples.benchmark.formats import jagged
from examples.benchmark.workload import Rows, Workload
from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import (
    BatchConverter,
    BatchReader,
    DenseFeature,
    Features,
    ParquetSource,
    Rank,
    SparseFeature,
    Table,
)
from torchrec_mtl.heads import ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.training import TableOptimizer, build_train_pipeline
from torchrec_mtl.trunks import MMoE, Trunk

SHUFFLE_ROWS = 65_536


class PassThrough(Trunk):
    """Gives every tower the features as they are: ESMM shares the embeddings alone."""

    def __init__(self, in_features: int, num_tasks: int) -> None:
        super().__init__(in_features, num_tasks, in_features)

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, 1, D]``: one vector for all towers."""
        return features.unsqueeze(1)


def make_features(workload: Workload) -> Features:
    """The workload's features; bags are averaged."""
    single = [Table(name, rows, workload.dimension) for name, rows in workload.single.items()]
    bags = [Table(name, rows, workload.dimension, pooling="mean") for name, rows in workload.bagged.items()]
    return Features(
        tables=[*single, *bags],
        sparse=[SparseFeature(name) for name in workload.tables],
        dense=[DenseFeature(f"dense_{i}") for i in range(workload.dense)],
    )


def make_tasks(workload: Workload) -> list[BinaryTask]:
    """What the workload trains."""
    if workload.network == "esmm":
        return [BinaryTask("ctr", workload.labels[0]), BinaryTask("ctcvr", workload.labels[1])]
    return [BinaryTask(f"task_{i}", label) for i, label in enumerate(workload.labels)]


def make_objective(workload: Workload, features: Features) -> MultiTaskObjective:
    """The workload's model and losses."""
    embeddings = EmbeddingBagCollection(tables=features.embedding_bag_configs(), device=torch.device("meta"))
    width = features.width
    if workload.network == "esmm":
        trunk: Trunk = PassThrough(width, num_tasks=2)
        heads = TaskHeads(
            {name: Tower(width, hidden=[256, 128]) for name in ("ctr", "cvr")},
            links=[ProbabilityProduct("ctcvr", of=("ctr", "cvr"))],
        )
    else:
        trunk = MMoE(width, num_tasks=workload.tasks, num_experts=workload.experts, layers=[256, 128])
        heads = TaskHeads({task.name: Tower(128, hidden=[64]) for task in make_tasks(workload)})
    return MultiTaskObjective(MultiTaskModel(embeddings, trunk, heads), make_tasks(workload))


def as_batch(workload: Workload, rows: Rows) -> MultiTaskBatch:
    """Rows as the project's batch."""
    labels = {name: torch.from_numpy(rows.labels[:, i].copy()) for i, name in enumerate(workload.labels)}
    return MultiTaskBatch(torch.from_numpy(rows.dense), jagged(rows), labels)


class Ours(Contender):
    """This project's pipeline on batches in memory."""

    def __init__(self, workload: Workload, data: Path | None = None) -> None:
        super().__init__(workload, data)
        join_group()
        torch.manual_seed(workload.seed + dist.get_rank())
        self.features = make_features(workload)
        self.pipeline = build_train_pipeline(
            make_objective(workload, self.features),
            lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True),
            TableOptimizer(lr=0.05),
            device=torch.device("cpu"),
            batch_size=workload.batch_size,
        )
        self.batches = self.read()

    def read(self) -> Iterator[MultiTaskBatch]:
        """Batches without end."""
        return endless([as_batch(self.workload, rows) for rows in self.rows()])

    def train(self, batches: int) -> float:
        """Trains through TorchRec's pipeline."""
        for _ in range(batches):
            output = self.pipeline.progress(self.batches)
        return float(output["loss"])

    @property
    def state_bytes(self) -> int:
        """RowWiseAdagrad keeps one float a row."""
        return 4 * self.workload.rows


class OursFromParquet(Ours):
    """This project's pipeline on batches that its reader streams from a Parquet file, shuffled."""

    def read(self) -> Iterator[MultiTaskBatch]:
        """Batches without end, epoch after epoch."""
        assert self.data is not None, "needs a file"
        converter = BatchConverter(self.features, make_tasks(self.workload))
        rank = Rank(dist.get_rank(), dist.get_world_size())
        source = ParquetSource([str(self.data)], converter)
        reader = BatchReader(source, self.workload.batch_size, rank, self.workload.seed, SHUFFLE_ROWS)
        epoch = 0
        while True:
            for batch, _ in reader.batches(epoch):
                yield batch
            epoch += 1


class OursBFloat16(Ours):
    """This project's pipeline with trunk and towers in bfloat16; tables and losses stay in float32."""

    def __init__(self, workload: Workload, data: Path | None = None) -> None:
        if not has_bfloat16():
            raise NotMeasured("the processor has no bfloat16 arithmetic (neither AMX nor AVX512_BF16)")
        super().__init__(workload, data)

    def train(self, batches: int) -> float:
        """Trains under autocast, entered anew for each step: one context keeps the weights that it cast first."""
        for _ in range(batches):
            with torch.autocast("cpu", torch.bfloat16):
                loss = super().train(1)
        return loss


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies in bfloat16; without, it is slower than float32."""
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return bool({"amx_bf16", "avx512_bf16"}.intersection(flags))
