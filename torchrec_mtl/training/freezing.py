"""Freezes parts of a model before it is sharded, and tables for good."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv

from torchrec_mtl.frozen import Frozen, frozen_modules
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.objective import MultiTaskObjective
from torchrec_mtl.training.addresses import Address, NetworkNames, address_of, inside
from torchrec_mtl.training.optimizers import table_parameters
from torchrec_mtl.training.sharding import tables_of


def freeze(objective: MultiTaskObjective, parts: Sequence[str], new: Collection[str] = ()) -> None:
    """Freezes parts: bit by bit, none of their numbers changes while the rest trains.

    Call it before :func:`~torchrec_mtl.training.pipeline.build_train_pipeline`. Frozen parameters have no gradient and
    no optimizer; frozen tables have no backward pass. A module in which nothing trains stays in eval mode, so its
    dropout is off and its batch norm counts no batch, whether or not it has parameters. Of a frozen trunk, what belongs
    to towers that are new trains (:meth:`~torchrec_mtl.trunks.trunk.Trunk.task_parts`).

    Args:
        objective: What is to be trained.
        parts: ``tables``, ``tables.<table>``, ``dense``, ``sequences``, ``sequences.<sequence>``, ``trunk``,
            ``towers``, ``towers.<tower>``, ``links``, or a part of these such as ``trunk.experts``.
        new: Parts that start anew, in the same words: inside of a frozen part they train.

    Raises:
        ValueError: If a part is not known or is new, or nothing is left to train.

    Example::

        freeze(objective, ["tables", "trunk"], new=["towers.like"])
    """
    addresses = state_addresses(objective)
    check_parts(parts, addresses.values(), tables_of(objective), "freeze")
    if random := [part for part in parts if inside(part, new)]:
        raise ValueError(
            f"freeze: {random} start anew, and frozen they would stay at random. Name each in one of the two only."
        )
    towers = new_towers(objective.model.heads.tower_names, new)
    tables = frozenset(name for name in tables_of(objective) if inside(f"tables.{name}", parts))
    tables -= {name for name in tables if inside(f"tables.{name}", new)}
    kept = {
        name: _kept(addresses[name], each.shape, parts, new, towers)
        for name, each in objective.state_dict().items()
        if not addresses[name].name.startswith("tables.")  # the modules that hold them are TorchRec's to replace
    }
    rows: dict[str, Tensor] = {}
    left = set(tables_of(objective)) - tables
    for name, parameter in _other_parameters(objective):
        mask = kept[name]
        if mask.all():
            parameter.requires_grad_(False)
            continue
        left.add(name)
        if mask.any():
            rows[name] = mask
    if not left:
        raise ValueError(f"freeze: {list(parts)} are all there is, so nothing is left to train.")
    buffers = {name for name, _ in objective.named_buffers() if name in kept and kept[name].all()}
    objective.model.frozen = Frozen(tables, list(frozen_modules(objective.model, buffers, "model.")), rows)
    objective.model.frozen.evaluate()


def new_towers(towers: Collection[str], new: Collection[str]) -> list[str]:
    """Towers that start anew."""
    return [name for name in towers if inside(f"towers.{name}", new)]


def state_addresses(objective: MultiTaskObjective) -> dict[str, Address]:
    """``{parameter or buffer: what it is}``."""
    names, parts = NetworkNames.of(objective), objective.model.trunk.task_parts()
    return {name: address_of(name, entry.shape, names, parts) for name, entry in objective.state_dict().items()}


def check_parts(parts: Collection[str], addresses: Collection[Address], tables: Collection[str], what: str) -> None:
    """Refuses names of parts that are none.

    Raises:
        ValueError: If there is one.
    """
    known = dict.fromkeys(["tables", *(f"tables.{name}" for name in tables)])
    for address in addresses:
        known |= dict.fromkeys([address.part.split(".")[0], address.part])
    for part in parts:
        if part not in known and not any(inside(address.name, [part]) for address in addresses):
            raise ValueError(f"{what}: there is no part '{part}'. Found {list(known)}{did_you_mean(part, known)}")


def _other_parameters(objective: MultiTaskObjective) -> Iterator[tuple[str, nn.Parameter]]:
    """All but the tables, and a balancer's, which no part names."""
    named = dict(objective.named_parameters())
    tables = table_parameters(named, tables_of(objective))
    yield from ((name, each) for name, each in named.items() if name not in tables)


def _kept(
    address: Address, shape: Sequence[int], parts: Collection[str], new: Collection[str], towers: Collection[str]
) -> Tensor:
    """True where a number is frozen: in a part that is, but not in one that is new, nor of a new tower."""
    if not inside(address.name, parts) or inside(address.name, new) or address.owner in towers:
        return torch.zeros(tuple(shape), dtype=torch.bool)
    mask = torch.ones(tuple(shape), dtype=torch.bool)
    for dimension, labels in address.rows.items():
        kept = torch.tensor([task not in towers for task, _ in labels])
        mask &= kept.view([-1 if i == dimension else 1 for i in range(mask.ndim)])
    return mask


def stop_tables(model: DistributedModelParallel, tables: Collection[str]) -> None:
    """Leaves out the backward pass of lookups in frozen tables, so that no learning rate can move them.

    Args:
        model: A model that TorchRec has sharded.
        tables: Names of the frozen tables.

    Raises:
        RuntimeError: If TorchRec has put a frozen table into one lookup with others that are updated there.
    """
    for kernel in _kernels(model):
        names = {config.name for config in kernel._config.embedding_tables}
        if names <= set(tables):
            kernel.__class__ = _without_backward(type(kernel))
        elif names & set(tables) and hasattr(kernel, "fused_optimizer"):
            raise RuntimeError(f"Tables {sorted(names)} are looked up together, but only some of them are frozen.")


def _without_backward(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of lookups, without a backward pass; a class, as a copy of the model must read its own tables."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            found = kind.forward(self, *args, **kwargs)
        # ends the graph here, but not before: ranks without such a table take part in exchanging the gradient
        return found.requires_grad_(torch.is_grad_enabled())

    return type(f"Frozen{kind.__name__}", (kind,), {"forward": forward})


def _kernels(model: nn.Module) -> Iterator[Any]:
    """TorchRec's groups of tables; it keeps its lookups in a plain list."""
    for module in model.modules():
        for lookup in getattr(module, "_lookups", []):
            yield from (child for child in lookup.modules() if hasattr(child, "emb_module"))


class TrainedDataParallelWrapper(DefaultDataParallelWrapper):
    """TorchRec's, for a model of which perhaps only tables train: DDP refuses one without a trained parameter."""

    def _ddp_wrap(
        self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device, ddp_ignore_param_names: set[str]
    ) -> None:
        named = dmp._dmp_wrapped_module.named_parameters()
        if any(each.requires_grad for name, each in named if name not in ddp_ignore_param_names):
            super()._ddp_wrap(dmp, env, device, ddp_ignore_param_names)
        else:
            dmp._dmp_wrapped_module.to(device)
