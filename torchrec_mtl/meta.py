"""The meta device: modules built there get their memory from TorchRec, which sees to parameters alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn


def real_device() -> torch.device:
    """Where buffers of constants are made: the default device, or the CPU where that is meta.

    ``DistributedModelParallel`` would make zeros of those on the meta device; to others it leaves their values.
    """
    device = torch.empty(0).device
    return torch.device("cpu") if device.type == "meta" else device


def check_meta(module: nn.Module, tables: Collection[nn.Module] = ()) -> None:
    """Refuses parts on the meta device that ``DistributedModelParallel`` would start with arbitrary numbers or zeros.

    It gives memory to everything on that device, and then calls ``reset_parameters()`` of the modules that hold such
    parameters themselves. Nothing else gets a value.

    Args:
        module: What is to be sharded.
        tables: Modules inside that TorchRec shards, which it starts by itself.

    Raises:
        ValueError: If there are such parts; the text names them.
    """
    sharded = {id(part) for table in tables for part in table.modules()}
    if lost := list(_lost(module, "", sharded)):
        raise ValueError(
            f"{lost} are on the meta device, where they have no values, and nothing would give them any: TorchRec "
            f"calls reset_parameters() of modules that hold parameters themselves, and fills other buffers with zeros. "
            f"Build the modules that hold them on a real device, or give those with parameters a reset_parameters() "
            f"that sets all they hold, and make buffers of constants on a real device (device='cpu')."
        )


def _lost(module: nn.Module, prefix: str, sharded: Collection[int]) -> Iterator[str]:
    if id(module) in sharded:
        return
    held = [*module.named_parameters(prefix, recurse=False), *module.named_buffers(prefix, recurse=False)]
    if any(part.is_meta for part in module.parameters(recurse=False)) and hasattr(module, "reset_parameters"):
        return  # called after those of its children: it may set theirs too
    yield from (name for name, part in held if part.is_meta)
    for name, child in module.named_children():
        yield from _lost(child, f"{prefix}.{name}" if prefix else name, sharded)
