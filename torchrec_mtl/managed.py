"""Managed collision: TorchRec's modules that give raw 64-bit ids rows of their own while they train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_mtl.data.features import Features


class ManagedEmbeddings(nn.Module):
    """Embedding bags whose ids are any number in ``[0, 2**63 - 1)``; stands where an ``EmbeddingBagCollection`` stands.

    TorchRec keeps a map from ids to rows. An id without a row reads its shard's last row. Every
    ``eviction_interval`` training steps ids that were seen since get the free rows, then rows of ids that are rare and
    long unseen; a row that changes hands starts anew. Evaluation changes nothing.

    No GPU has run this in the project's tests: on CPU they check the unsharded module, its maps included, and sharded
    steps up to the first change of rows, for which TorchRec 1.8 has a CUDA kernel only (:func:`check_device`). Make it
    inside the process group that will train it. TorchRec shards it by rows only.

    Args:
        tables: TorchRec's configuration of every table.
        eviction_intervals: ``{table: training steps between changes of its map}``, one for each table.
        device: Device of the tables, perhaps meta. The maps (32 bytes a row) are made on CPU unless it is a real one.

    Shapes:
        features: stride ``B``; returns a ``KeyedTensor`` of values ``[B, D_e]``.

    Source: TorchRec's ``MCHManagedCollisionModule`` with ``DistanceLFU_EvictionPolicy``.
    """

    def __init__(
        self, tables: Sequence[EmbeddingBagConfig], eviction_intervals: Mapping[str, int], device: torch.device
    ) -> None:
        super().__init__()
        map_device = torch.device("cpu") if device.type == "meta" else device  # TorchRec reads a map when it shards it
        maps = {
            table.name: MCHManagedCollisionModule(
                zch_size=table.num_embeddings,
                device=map_device,
                eviction_policy=DistanceLFU_EvictionPolicy(),
                eviction_interval=eviction_intervals[table.name],
                buckets=dist.get_world_size() if dist.is_initialized() else 1,  # TorchRec wants a multiple of the ranks
            )
            for table in tables
        }
        self.collection = ManagedCollisionEmbeddingBagCollection(
            EmbeddingBagCollection(tables=list(tables), device=device),
            ManagedCollisionCollection(maps, list(tables)),
        )
        self._configs = list(tables)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """TorchRec's configuration of every table."""
        return self._configs

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pools the embeddings of every bag."""
        return self.collection(features)[0]  # the second are the rows, which nothing reads


def embedding_bags(features: Features, device: torch.device) -> EmbeddingBagCollection | ManagedEmbeddings | None:
    """The tables that no sequence reads, managed or not; ``None`` where there are none."""
    configs = features.embedding_bag_configs()
    if not configs:
        return None
    intervals = {
        table.name: table.managed_collision.eviction_interval
        for table in features.tables
        if table.managed_collision is not None
    }
    if intervals:
        return ManagedEmbeddings(configs, intervals, device)
    return EmbeddingBagCollection(tables=configs, device=device)


def managed_tables(module: nn.Module) -> list[str]:
    """Names of the managed tables below a module."""
    managed = (child for child in module.modules() if isinstance(child, ManagedEmbeddings))
    return [config.name for child in managed for config in child.embedding_bag_configs()]


def check_device(tables: Sequence[str], device: torch.device) -> None:
    """Checks that managed tables can be trained where they shall be.

    Raises:
        ValueError: If there are any, and the device is no CUDA device.
    """
    if tables and device.type != "cuda":
        raise ValueError(
            f"Tables {list(tables)} are declared with managed_collision, but this job runs on {device.type}: TorchRec "
            f"1.8 has no CPU kernel that resets the rows of evicted ids, so training would fail at the first eviction. "
            f"Run on a GPU, or leave managed_collision out and declare their features with out_of_range: hash or with "
            f"a vocabulary (torchrec-mtl vocab makes one)."
        )
