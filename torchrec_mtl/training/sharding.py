"""Sharding plans by TorchRec's planner, on CPU and CUDA."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.mc_embeddingbag import ManagedCollisionEmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import ModuleSharder, ShardingPlan, ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from torchrec_mtl.managed import managed_tables

# grid_shard is left out: TorchRec 1.8 turns MEAN pooling into SUM there.
SHARDING_TYPES = tuple(
    kind.value
    for kind in (
        ShardingType.DATA_PARALLEL,
        ShardingType.TABLE_WISE,
        ShardingType.COLUMN_WISE,
        ShardingType.TABLE_COLUMN_WISE,
        ShardingType.ROW_WISE,
        ShardingType.TABLE_ROW_WISE,
    )
)

# TorchRec 1.8 fails with data_parallel and table_row_wise tables of an EmbeddingCollection.
SEQUENCE_SHARDING_TYPES = ("table_wise", "column_wise", "row_wise")
REPLICATED_ROWS = 4096  # on CPU: fixed, so that a job resumes with the same plan whatever its ranks and batch size


@dataclass(frozen=True)
class TableSharding:
    """What the planner may do with one table.

    Args:
        types: Sharding types to choose from: data_parallel, table_wise, column_wise, table_column_wise, row_wise,
            table_row_wise.
        min_partition: Least width of a column-wise shard; by default TorchRec's 128.

    Raises:
        ValueError: If a type is unknown.
    """

    types: Sequence[str] = field(default_factory=list)
    min_partition: int | None = None

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.types if kind not in SHARDING_TYPES]:
            why = " (grid_shard turns mean pooling into a sum)" if "grid_shard" in unknown else ""
            raise ValueError(f"Unknown sharding types {unknown}{why}. Use some of {list(SHARDING_TYPES)}.")


class BagSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder, with row-wise sharding offered on CPU too.

    The CPU kernels do it; the stock sharder hides it from the planner.
    """

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Sharding types that the planner may choose from."""
        return list(SHARDING_TYPES)


class SequenceSharder(EmbeddingCollectionSharder):
    """TorchRec's sharder for sequences, without data_parallel, which fails there on CPU."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Sharding types that the planner may choose from."""
        return list(SEQUENCE_SHARDING_TYPES)


class ManagedSharder(ManagedCollisionEmbeddingBagCollectionSharder):
    """TorchRec's sharder for managed collision, row_wise, with tables in the device's own memory."""

    def __init__(self) -> None:
        super().__init__(BagSharder())

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Kernels that the planner may choose from."""
        return [EmbeddingComputeKernel.FUSED.value]


def sharders() -> list[ModuleSharder[nn.Module]]:
    """Sharders for every embedding module that the project offers."""
    return [BagSharder(), SequenceSharder(), ManagedSharder()]


def tables_of(module: nn.Module) -> list[str]:
    """Names of all embedding tables below a module that is not sharded yet."""
    return [*(config.name for config in _bag_configs(module)), *sequence_tables(module)]


def sequence_tables(module: nn.Module) -> list[str]:
    """Names of the tables that behaviour sequences read."""
    collections = (child for child in module.modules() if isinstance(child, EmbeddingCollection))
    return [config.name for collection in collections for config in collection.embedding_configs()]


def _bag_configs(module: nn.Module) -> list[EmbeddingBagConfig]:
    collections = (child for child in module.modules() if isinstance(child, EmbeddingBagCollection))
    return [config for collection in collections for config in collection.embedding_bag_configs()]


def plan_sharding(
    module: nn.Module,
    device: torch.device,
    constraints: Mapping[str, TableSharding] | None = None,
    batch_size: int | None = None,
) -> ShardingPlan:
    """Plans the sharding of a module's tables; every rank comes to the same plan by itself.

    Args:
        module: Module with unsharded embedding collections, best on the meta device.
        device: Device of training.
        constraints: ``{table: what the planner may do}``; other tables are the planner's to choose. On CPU they are
            replicated if they have at most 4,096 rows and no sequence reads them, else kept whole on one rank, as long
            as such a plan fits.
        batch_size: Rows a rank and step, for the planner's cost model.

    Raises:
        ValueError: If a constraint names no table, or no plan fits.
    """
    _check_constraints(module, constraints or {})
    if device.type == "cpu":
        small, whole = _fast_on_cpu(module)
        for defaults in (whole | small, small):  # the second where a table fits on no rank whole
            try:
                return _plan(module, device, defaults | dict(constraints or {}), batch_size)
            except PlannerError:
                continue
    try:
        return _plan(module, device, constraints or {}, batch_size)
    except PlannerError as error:
        raise ValueError(
            f"No sharding plan fits {dist.get_world_size()} ranks and the given constraints: {error}"
        ) from error


def _check_constraints(module: nn.Module, constraints: Mapping[str, TableSharding]) -> None:
    tables = tables_of(module)
    if unknown := sorted(set(constraints) - set(tables)):
        raise ValueError(f"Sharding constraints name unknown tables {unknown}. Tables: {tables}.")
    for table in sequence_tables(module):
        if refused := set(constraints.get(table, TableSharding()).types) - set(SEQUENCE_SHARDING_TYPES):
            raise ValueError(
                f"Table '{table}' is read by a behaviour sequence, and TorchRec shards such tables by "
                f"{list(SEQUENCE_SHARDING_TYPES)} only, but found {sorted(refused)}. Correct its sharding."
            )
    for table in managed_tables(module):
        types = constraints.get(table, TableSharding()).types
        if types and "row_wise" not in types:
            raise ValueError(
                f"Table '{table}' has managed_collision, and TorchRec shards such tables by ['row_wise'] only, but "
                f"found {list(types)}. Correct its sharding."
            )


def _fast_on_cpu(module: nn.Module) -> tuple[dict[str, TableSharding], dict[str, TableSharding]]:
    """Small tables replicated, others whole on one rank.

    TorchRec's planner knows what GPUs do. On CPU a row_wise lookup spends more on sorting ids into buckets and on
    exchanging sums than on the table; and the gradient of a small table is cheaper to add up over ranks than the pooled
    embeddings of a batch are to exchange (``python -m examples.benchmark``).
    """
    whole = {table: TableSharding(["table_wise"]) for table in tables_of(module)}
    small = {
        config.name: TableSharding(["data_parallel"])
        for config in _bag_configs(module)
        if config.num_embeddings <= REPLICATED_ROWS
    }
    return small, whole


def _plan(
    module: nn.Module, device: torch.device, constraints: Mapping[str, TableSharding], batch_size: int | None
) -> ShardingPlan:
    world_size = dist.get_world_size()
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=world_size,
            local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
            compute_device=device.type,
        ),
        batch_size=batch_size,
        constraints={
            table: ParameterConstraints(
                sharding_types=list(choice.types) or None,
                **({"min_partition": choice.min_partition} if choice.min_partition else {}),
            )
            for table, choice in constraints.items()
        },
        storage_reservation=FixedPercentageStorageReservation(0.15),
        debug=False,
    )
    return planner.plan(module, sharders())


def sharding_of(plan: ShardingPlan) -> dict[str, str]:
    """``{table: sharding type}`` of a plan."""
    return {table: choice.sharding_type for module in plan.plan.values() for table, choice in module.items()}
