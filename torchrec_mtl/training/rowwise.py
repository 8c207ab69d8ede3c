"""RowWiseAdagrad on CPU by FBGEMM's compiled loop, on every thread.

FBGEMM 1.8 updates a table that one feature reads by a kernel made at run time, which mixes legacy SSE into AVX code and
so costs about half a microsecond for each different row, and its wheel runs all tables on one thread. A table that two
features share takes a compiled loop instead, several times as fast. So the backward operator is told of a second
feature without ids for every table, and disjoint groups of tables are given to as many threads as torch has. The
operator, the weights and the optimizer's state are FBGEMM's own, and the update is the same to float32's rounding
(``tests/training/test_rowwise.py``). ``python -m examples.benchmark`` measures what it brings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as Tables
from torch import Tensor, nn


def use_compiled_loop(model: nn.Module) -> int:
    """Gives every fused RowWiseAdagrad lookup of a sharded model on CPU the compiled loop.

    Args:
        model: A model that TorchRec has sharded.

    Returns:
        Number of groups of tables that take it; others keep FBGEMM's way.
    """
    groups = [tables for tables in _table_groups(model) if _fits(tables)]
    for tables in groups:
        tables.compiled_update = CompiledUpdate(tables)
        tables.__class__ = CompiledTables  # not an attribute: a copy of the model must read its own tables
    return len(groups)


class CompiledUpdate:
    """The backward pass and the update of a group of tables.

    Args:
        tables: FBGEMM's module, with bags.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        readers = Counter(tables.feature_table_map)
        features, empty = [], []  # FBGEMM's features, each that has its table alone followed by an empty one
        for feature, table in enumerate(tables.feature_table_map):
            alone = readers[table] == 1
            features += [feature, feature] if alone else [feature]
            empty += [False, True] if alone else [False]
        place = torch.tensor(features)
        self.features, self.empty = place, torch.tensor(empty)
        ends = torch.where(self.empty, tables.D_offsets[1:][place], tables.D_offsets[:-1][place])
        self.columns = torch.cat([ends, tables.D_offsets[-1:]])  # an empty feature has no columns
        self.hash_sizes = torch.cat([tables.hash_size_cumsum[:-1][place], tables.hash_size_cumsum[-1:]])
        names = ("weights_placements", "weights_offsets", "momentum1_placements", "momentum1_offsets")
        self.layout = {name: getattr(tables, name)[place].contiguous() for name in names}
        owners = [tables.feature_table_map[feature] for feature in features]
        self.starts = [i for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]] + [len(owners)]

    def __call__(self, gradient: Tensor, indices: Tensor, offsets: Tensor) -> None:
        """Updates the tables by a gradient ``[B, D]``."""
        rows = (offsets.numel() - 1) // len(self.tables.feature_table_map)
        starts, ends = offsets[:-1].view(-1, rows), offsets[rows::rows].unsqueeze(1)
        bags = torch.where(self.empty.unsqueeze(1), ends[self.features], starts[self.features])
        bags = torch.cat([bags.flatten(), offsets[-1:]])
        cuts = self._cuts(bags[::rows].tolist(), torch.get_num_threads())

        def update(first: int, last: int) -> None:
            layout = {name: part[first:last] for name, part in self.layout.items()}
            torch.ops.fbgemm.split_embedding_backward_codegen_rowwise_adagrad_cpu(
                grad_output=gradient,
                host_weights=self.tables.weights_host,
                D_offsets=self.columns[first : last + 1],
                max_D=self.tables.max_D,
                hash_size_cumsum=self.hash_sizes[first : last + 1],
                total_hash_size_bits=self.tables.total_hash_size_bits,
                indices=indices,
                offsets=bags[first * rows : last * rows + 1],
                pooling_mode=int(self.tables.pooling_mode),
                indice_weights=None,
                stochastic_rounding=False,
                momentum1_host=self.tables.momentum1_host,
                learning_rate_tensor=self.tables.learning_rate_tensor,
                eps=self.tables.optimizer_args.eps,
                **layout,
            )

        _together([lambda first=first, last=last: update(first, last) for first, last in pairwise(cuts)])  # type: ignore[misc]

    def _cuts(self, ends: Sequence[int], threads: int) -> list[int]:
        """Features at which the threads' shares begin: whole tables, about as many lookups each."""
        wanted = [ends[-1] * part / threads for part in range(1, threads)]
        cuts = {min(self.starts, key=lambda start: abs(ends[start] - lookups)) for lookups in wanted}
        return sorted({0, len(self.features), *cuts})


class _Lookup(torch.autograd.Function):
    """FBGEMM's forward; in the backward pass the update, as in its own fused lookups."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, update: CompiledUpdate, indices: Tensor, offsets: Tensor) -> Tensor:
        tables = update.tables
        ctx.update = update
        ctx.save_for_backward(indices, offsets)
        return torch.ops.fbgemm.split_embedding_codegen_forward_cpu(
            tables.weights_host,
            tables.weights_offsets,
            tables.D_offsets,
            tables.total_D,
            tables.hash_size_cumsum,
            indices,
            offsets,
            int(tables.pooling_mode),
            None,
            tables.output_dtype,
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        indices, offsets = ctx.saved_tensors
        ctx.update(gradients[0].contiguous(), indices, offsets)
        return None, None, None, None


class CompiledTables(Tables):
    """FBGEMM's module with another backward pass; what is unusual takes FBGEMM's own."""

    compiled_update: CompiledUpdate

    def forward(
        self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None, *args: Any, **others: Any
    ) -> Tensor:
        """Looks up bags of ids, as FBGEMM's does."""
        unusual = per_sample_weights is not None or args or any(value is not None for value in others.values())
        if unusual or not indices.numel():
            return super().forward(indices, offsets, per_sample_weights, *args, **others)
        indices, offsets, _, _ = self.prepare_inputs(  # checks that ids lie inside the tables
            indices, offsets, None, None, force_cast_input_types=True, prefetch_pipeline=False
        )
        return _Lookup.apply(self.placeholder_autograd_tensor, self.compiled_update, indices, offsets)


def _table_groups(model: nn.Module) -> Iterator[Tables]:
    """FBGEMM's modules of a sharded model; TorchRec keeps its lookups in a plain list."""
    for module in model.modules():
        for lookup in getattr(module, "_lookups", []):
            yield from (child for child in lookup.modules() if isinstance(child, Tables))


def _fits(tables: Tables) -> bool:
    owners, arguments = list(tables.feature_table_map), tables.optimizer_args
    plain = not (arguments.weight_decay or arguments.max_norm or arguments.gradient_clipping)
    return (
        tables.use_cpu
        and tables.optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD
        and tables.pooling_mode != PoolingMode.NONE  # sequences share their tables: they have the compiled loop
        and tables.weights_host.dtype == torch.float32
        and owners == sorted(owners)  # a table's features stand together
        and plain
    )


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "torchrec-mtl-tables")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def _together(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs jobs at once, the first here; FBGEMM's operators release the interpreter's lock."""
    others = [_pool(len(jobs) - 1).submit(job) for job in jobs[1:]]
    jobs[0]()
    for other in others:
        other.result()
