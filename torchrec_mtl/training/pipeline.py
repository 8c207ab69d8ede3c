"""From an objective to TorchRec's train pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardedModule, ShardingEnv
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_mtl.frozen import Frozen, keep_rows
from torchrec_mtl.managed import check_device, managed_tables
from torchrec_mtl.objective import MultiTaskObjective
from torchrec_mtl.training.autocast import autocast
from torchrec_mtl.training.freezing import TrainedDataParallelWrapper, stop_tables
from torchrec_mtl.training.optimizers import MakeOptimizer, TableOptimizer, table_parameters
from torchrec_mtl.training.pooling import correct_mean_pooling
from torchrec_mtl.training.rowwise import use_compiled_loop
from torchrec_mtl.training.sharding import (
    TableSharding,
    plan_sharding,
    sequence_tables,
    sharders,
    sharding_of,
    tables_of,
)


class StrictPipeline(TrainPipelineSparseDist):
    """TorchRec's ``TrainPipelineSparseDist``, for which an unpipelined embedding module is an error.

    The stock pipeline logs a warning and trains on, slower, with nobody the wiser.
    """

    def _pipeline_model(self, *args: Any, **kwargs: Any) -> None:
        super()._pipeline_model(*args, **kwargs)
        check_pipelined(self)


def check_pipelined(pipeline: TrainPipelineSparseDist) -> None:
    """Checks a running pipeline, also one of your own, after its first ``progress``.

    Raises:
        RuntimeError: If an embedding module has fallen out of the pipeline; the text names it.
    """
    pipelined = {id(module) for module in pipeline._pipelined_modules}
    sharded = {name: module for name, module in pipeline._model.named_modules() if isinstance(module, ShardedModule)}
    parts = {id(part) for module in sharded.values() for part in module.modules() if part is not module}
    if left_out := [name for name, module in sharded.items() if id(module) not in pipelined | parts]:
        raise RuntimeError(
            f"Embedding modules {left_out} are not pipelined: their input must reach them straight from the batch, by "
            f"attributes alone. Do not permute or rebuild a KeyedJaggedTensor in a forward; do it when the batch is "
            f"made."
        )


def build_train_pipeline(
    objective: MultiTaskObjective,
    dense_optimizer: MakeOptimizer,
    table_optimizer: TableOptimizer | None = None,
    *,
    device: torch.device | None = None,
    constraints: Mapping[str, TableSharding] | None = None,
    batch_size: int | None = None,
    products: torch.dtype | None = None,
) -> TrainPipelineSparseDist:
    """Shards an objective, gives tables and towers their optimizers and returns TorchRec's pipeline around it.

    Call it on every rank, inside an initialised process group. Tables on the meta device are made directly as shards.

    Args:
        objective: What to train.
        dense_optimizer: Makes the optimizer of everything but the tables, for instance ``torch.optim.Adam``.
        table_optimizer: Optimizer of the tables, by default RowWiseAdagrad.
        device: Device of this rank; by default the current CUDA device where there is one, else the CPU.
        constraints: ``{table: what the planner may do}``.
        batch_size: Rows a rank and step, for the planner's cost model.
        products: ``torch.bfloat16`` to train under :func:`~torchrec_mtl.training.autocast.autocast`.

    Raises:
        ValueError: If the optimizer would be ignored by the platform, no sharding plan fits, tables have managed
            collision and the device is no CUDA device, or parts on the meta device would get no values.
    """
    if device is None:
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    table_optimizer = table_optimizer or TableOptimizer()
    table_optimizer.check(device)
    check_device(managed_tables(objective), device)
    objective.check_meta()
    tables = tables_of(objective)
    if table_optimizer.is_dense(device):
        if sequential := sequence_tables(objective):
            raise ValueError(
                f"Adam on CPU needs replicated (data_parallel) tables, which tables {sequential} of behaviour "
                f"sequences cannot be. Use RowWiseAdagrad, Adagrad or SGD."
            )
        constraints = _replicated(tables, constraints)
    plan = plan_sharding(objective, device, constraints, batch_size)
    sharding = sharding_of(plan)
    fused = table_parameters(
        dict(objective.named_parameters()), [table for table in tables if sharding.get(table) != "data_parallel"]
    )
    frozen = objective.model.frozen
    still = table_parameters(fused, frozen.tables)
    moving = [parameter for name, parameter in fused.items() if name not in still]
    apply_optimizer_in_backward(table_optimizer.optimizer, moving, table_optimizer.arguments)
    # a rate of their own gives frozen tables lookups of their own
    apply_optimizer_in_backward(table_optimizer.optimizer, still.values(), table_optimizer.arguments | {"lr": 0.0})
    assert dist.group.WORLD is not None
    model = DistributedModelParallel(
        module=objective,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=device,
        plan=plan,
        sharders=sharders(),
        # every tower reaches the loss (the objective checks it), so no parameter is ever unused; with a static graph,
        # further autograd.grad calls of a balancer would make ranks diverge
        data_parallel_wrapper=TrainedDataParallelWrapper(static_graph=False),
    )
    use_compiled_loop(model)
    correct_mean_pooling(model)
    stop_tables(model, frozen.tables)
    optimizer = _optimizer(model, tables, dense_optimizer, table_optimizer, frozen)
    return StrictPipeline(model, optimizer, device, custom_model_fwd=autocast(model, device, products))


def _optimizer(
    model: DistributedModelParallel, tables: list[str], dense: MakeOptimizer, table: TableOptimizer, frozen: Frozen
) -> CombinedOptimizer:
    """The fused optimizer, one for replicated tables (an in-backward one is silently ignored there), and the rest."""
    parameters = {
        name: parameter
        for name, parameter in in_backward_optimizer_filter(model.named_parameters())
        if parameter.requires_grad
    }
    replicated = table_parameters(parameters, tables)
    towers = {name: parameter for name, parameter in parameters.items() if name not in replicated}
    replicated = {
        name: each for name, each in replicated.items() if name not in table_parameters(replicated, frozen.tables)
    }
    masks = {parameter: frozen.rows[name] for name, parameter in towers.items() if name in frozen.rows}
    optimizers: list[KeyedOptimizer | tuple[str, KeyedOptimizer]] = [model.fused_optimizer]
    if replicated:
        optimizers.append(("replicated_tables", KeyedOptimizerWrapper(replicated, table.stepping)))
    if towers:
        optimizers.append(("dense", KeyedOptimizerWrapper(towers, lambda trained: keep_rows(dense(trained), masks))))
    return CombinedOptimizer(optimizers)


def _replicated(tables: list[str], constraints: Mapping[str, TableSharding] | None) -> dict[str, TableSharding]:
    for table, choice in (constraints or {}).items():
        if choice.types and "data_parallel" not in choice.types:
            raise ValueError(
                f"Table '{table}' is constrained to {list(choice.types)}, but Adam on CPU takes the dense route, which "
                f"needs data_parallel tables. Use RowWiseAdagrad, Adagrad or SGD, or drop the constraint."
            )
    return {table: TableSharding(types=["data_parallel"]) for table in tables}
