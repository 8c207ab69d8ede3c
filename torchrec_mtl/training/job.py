"""A job: everything that a job file says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from torchrec_mtl.balancers.balancer import Balancer
from torchrec_mtl.balancers.fixed import FixedWeights
from torchrec_mtl.calibration.calibrator import Calibrator
from torchrec_mtl.data.convert import BatchConverter
from torchrec_mtl.data.features import Features
from torchrec_mtl.data.funnel import Funnel
from torchrec_mtl.data.own_tables import inherited, own_features, with_own_tables
from torchrec_mtl.data.reader import ReadAhead
from torchrec_mtl.data.sampling import NegativeSampling
from torchrec_mtl.dense import DenseEncoder
from torchrec_mtl.heads.head import Head
from torchrec_mtl.heads.heads import TaskHeads
from torchrec_mtl.heads.link import Link
from torchrec_mtl.inside.warnings import Bounds
from torchrec_mtl.layout import TaskFeatures
from torchrec_mtl.managed import embedding_bags
from torchrec_mtl.model import MultiTaskModel
from torchrec_mtl.objective import MultiTaskObjective, check_names
from torchrec_mtl.rehearsal import rehearse
from torchrec_mtl.sequences import SequenceAttention, SequenceWidths
from torchrec_mtl.task_features import readers_of
from torchrec_mtl.tasks.task import Task
from torchrec_mtl.training.optimizers import MakeOptimizer, TableOptimizer
from torchrec_mtl.training.schedule import Schedule
from torchrec_mtl.training.sequences import sequence_encoder
from torchrec_mtl.training.sharding import TableSharding
from torchrec_mtl.training.start_from import StartFrom
from torchrec_mtl.trunks.trunk import Trunk
from torchrec_mtl.vector import dense_columns, feature_vector


@dataclass
class Data:
    """Where the rows are and how they are read.

    Args:
        train: Training split: Parquet files, directories or globs, local or as addresses (s3://...); or CSV files.
        validation: Split that is measured after every epoch, if any.
        test: Split that is measured at the end, if any.
        batch_size: Rows a rank and step.
        shuffle_rows: Rows are shuffled within blocks of this size; bounds the memory.
        read_ahead: Threads that read while the model trains, and how far ahead.
        funnel: Order of the binary labels and the policy for rows that break it.
        sampling: Which rows without a click (or another label) were left out of which splits.
        keys: Columns that predictions carry along.
        group: Column whose values group the rows for GAUC, for instance the user.
    """

    train: list[str]
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    batch_size: int = 4096
    shuffle_rows: int = 262_144
    read_ahead: ReadAhead = field(default_factory=ReadAhead)
    funnel: Funnel | None = None
    sampling: NegativeSampling | None = None
    keys: list[str] = field(default_factory=list)
    group: str | None = None


@dataclass
class Network:
    """What stands between features and outputs, each class by import path with its init_args.

    Args:
        trunk: Trunk class; ``in_features`` and ``num_tasks`` come from the features and towers.
        towers: ``{output name: tower class}``; ``in_features`` comes from the trunk.
        links: Links between outputs, in any order.
        dense: Dense encoder class, fitted on a sample of the training split; by default features are read as they are.
        attention: ``{sequence: attention class}``, one for each of ``features.sequences``; the widths come from them.
        attention_per_task: Sequences with a block for each tower, whose vectors only that tower reads; by default one
            block is shared by all tasks.
        only: ``{feature: towers}``: sparse features, dense columns, sequences, or "dense" for all dense columns, that
            no other tower sees. They leave the vector that the trunk reads, and join what it gives to these towers.
    """

    trunk: Callable[[int, int], Trunk]
    towers: dict[str, Callable[[int], Head]]
    links: list[Link] = field(default_factory=list)
    dense: Callable[[int], DenseEncoder] | None = None
    attention: dict[str, Callable[[SequenceWidths], SequenceAttention]] = field(default_factory=dict)
    attention_per_task: list[str] = field(default_factory=list)
    only: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Training:
    """How it is trained.

    Args:
        epochs: Passes over the training split.
        seed: Seeds initial parameters, shuffling and dropout.
        table_optimizer: Optimizer of the embedding tables.
        dense_optimizer: Optimizer of everything else: any torch.optim class.
        schedule: Warm-up and decay of all learning rates.
        sharding: ``{table: what the planner may do}``, which holds for a tower's own copy of a table too, unless the
            copy is named; other tables are the planner's to choose.
        checkpoint_every: Steps between checkpoints; one is always written at the end.
        keep: Number of checkpoints that are kept.
        log_every: Steps between points of the training curves.
        threads: CPU threads a rank; by default the cores divided by the ranks of this machine.
        autocast: ``bfloat16`` for the products of trunk, towers, attention and dense encoder while training; tables,
            losses and everything that is measured or predicted stay float32. Where the processor has no bfloat16
            arithmetic (AMX, AVX512_BF16) it is slower. By default float32.
        start_from: A checkpoint of this or other tasks that training starts with; by default everything starts anew. A
            run that is resumed goes on instead.
        freeze: Parts that do not train, in the words of ``start_from``: tables, trunk, towers.ctr, ...
        inside: Whether every evaluation also looks at the trunk's gates and experts: ``inside_<split>.json``, a
            picture, curves and warnings.
        inside_bounds: Where a figure of the inside becomes a warning.
        inside_every: Looks after every so many logged training steps too, for curves; by default after none.
    """

    epochs: int = 1
    seed: int = 0
    table_optimizer: TableOptimizer = field(default_factory=TableOptimizer)
    dense_optimizer: MakeOptimizer = torch.optim.Adam
    schedule: Schedule = field(default_factory=Schedule)
    sharding: dict[str, TableSharding] = field(default_factory=dict)
    checkpoint_every: int = 1000
    keep: int = 2
    log_every: int = 20
    threads: int | None = None
    autocast: Literal["bfloat16"] | None = None
    start_from: StartFrom | None = None
    freeze: list[str] = field(default_factory=list)
    inside: bool = True
    inside_bounds: Bounds = field(default_factory=Bounds)
    inside_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "checkpoint_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, but found {getattr(self, name)}.")
        if self.inside_every is not None and (self.inside_every < 1 or not self.inside):
            raise ValueError(
                f"training.inside_every must be at least 1, and training.inside true, but found {self.inside_every} "
                f"and {str(self.inside).lower()}."
            )


@dataclass
class Job:
    """A multi-task ranking job.

    Args:
        features: Tables, sparse and dense features.
        data: Where the rows are and how they are read.
        network: Trunk, towers and links.
        tasks: What is trained and measured, each a task class with its init_args.
        output: Directory for checkpoints, curves and metrics.
        balancer: Balancer class; the trained tasks' weights come from the tasks.
        training: How it is trained.
        calibration: ``{task: calibrator class}`` for tasks that read a tower's logit, fitted at the end of training on
            the validation split, inside the task's label space, and carried by the checkpoint.

    Raises:
        ValueError: If a key column is named like a task, or the seed is negative.
    """

    features: Features
    data: Data
    network: Network
    tasks: Sequence[Task]
    output: Path
    balancer: Callable[[Sequence[float]], Balancer] = FixedWeights
    training: Training = field(default_factory=Training)
    calibration: dict[str, Calibrator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if both := sorted({*self.data.keys} & {task.name for task in self.tasks}):
            raise ValueError(
                f"{both} are both key columns and tasks: predictions would hold two columns of one name. Rename the "
                f"tasks (and their towers or links), or leave the columns out of data.keys."
            )
        if self.data.batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, but found {self.data.batch_size}.")
        if self.training.seed < 0:
            raise ValueError(f"training.seed must be at least 0, but found {self.training.seed}.")
        towers, start = list(self.network.towers), self.training.start_from
        self.features = with_own_tables(self.features, towers)
        if start is not None:
            self.training = replace(self.training, start_from=start.with_copies(self.features.own_tables, towers))

    @property
    def sharding(self) -> dict[str, TableSharding]:
        """What the planner may do with tables and their copies."""
        return inherited(self.training.sharding, self.features, list(self.network.towers))

    def converter(self, split: str | None = None, labelled: bool = True) -> BatchConverter:
        """Turns a split's rows into batches as the job declares; rows of no split were not sampled."""
        sampling = None if self.data.sampling is None else self.data.sampling.on(split)
        return BatchConverter(self.features, self.tasks, self.data.funnel, labelled, sampling)

    @property
    def key_columns(self) -> list[str]:
        """Columns that travel beside the batches."""
        group = [self.data.group] if self.data.group else []
        return list(dict.fromkeys([*self.data.keys, *group]))

    def objective(self) -> MultiTaskObjective:
        """The objective around the model."""
        return MultiTaskObjective(self.model(), self.tasks, self.balancer, self.data.sampling)

    def checked(self) -> MultiTaskModel:
        """The network, once all is checked that needs no label: what its tasks demand only where none is to be fitted.

        Raises:
            ValueError: If the parts of the network, or its tasks, do not fit each other.
        """
        with _at("training.dense_optimizer"):
            self.training.dense_optimizer([nn.Parameter(torch.zeros(2, 2))])  # says which of its numbers are wrong
        if not any(task.needs_fit for task in self.tasks):
            return self.objective().model
        model = self.model()
        check_names(self.tasks, model.heads)
        served = {task.name: task for task in self.tasks if task.served}
        model.trunk.check_tasks({name: served.get(name) for name in model.heads.tower_names}, model.heads.chains())
        rehearse(model.trunk)
        return model

    def model(self) -> MultiTaskModel:
        """The network, with tables on the meta device: they are made as shards, without a second copy."""
        features, network, meta = self.features, self.network, torch.device("meta")
        embeddings = embedding_bags(features, meta)
        dense = None if network.dense is None else network.dense(len(features.dense))
        sequences = sequence_encoder(features, network.attention, network.attention_per_task, len(network.towers))
        own = own_features(features, list(network.towers))
        task_features = TaskFeatures(network.only, own, dense=[feature.name for feature in features.dense])
        with _at("network.only"):
            readers_of(network.only, list(network.towers))
        columns = dense_columns(dense, task_features) or 0
        vector = feature_vector(columns, embeddings, sequences, list(network.towers), task_features)
        trunk = network.trunk(vector.out_features, len(network.towers))
        reads = trunk.out_features + (sequences.task_features if sequences else 0)
        towers = {}
        for name, tower in network.towers.items():
            with _at(f"network.towers.{name}"):
                towers[name] = tower(reads + vector.tower_features[name])
        heads = TaskHeads(towers, network.links)
        return MultiTaskModel(embeddings, trunk, heads, dense, sequences, task_features)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Has an error of what a job names say where the job names it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None
