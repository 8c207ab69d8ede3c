"""A trunk tried on two rows before it trains: what is wrong in one's own is told by its name."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from torchrec_mtl.trunks.trunk import Trunk

ROWS = 2  # one alone is too few for batch norm


def rehearse(trunk: Trunk) -> None:
    """Runs a copy of a trunk forward and backward on two rows; the trunk and all random states stay as they are.

    One on the meta device, or that cannot be copied (such as with ``torch.nn.utils.weight_norm``), is left alone.

    Args:
        trunk: It knows its layout and towers already.

    Raises:
        ValueError: If it fails, makes anything but ``[B, T, H]`` or ``[B, 1, H]``, or has parameters on which nothing
            depends that it makes: data-parallel training would wait for their gradients and fail.
    """
    first = next(trunk.parameters(), torch.zeros(0))
    if first.is_meta:
        return
    try:
        copy = deepcopy(trunk)
    except (RuntimeError, TypeError):  # holds a tensor that is computed, a lock or a file
        return
    cuda = [] if first.device.type == "cpu" else [first.device]
    with torch.random.fork_rng(cuda, device_type=first.device.type), torch.enable_grad():
        features = torch.rand(ROWS, trunk.in_features, device=first.device, dtype=first.dtype)
        _rehearse(copy, features)


def _rehearse(trunk: Trunk, features: Tensor) -> None:
    name = type(trunk).__name__
    try:
        made = trunk(features)
    except Exception as error:
        raise ValueError(f"{name} fails on features {list(features.shape)}: {error}") from error
    shapes = [[ROWS, tasks, trunk.out_features] for tasks in (trunk.num_tasks, 1)]
    found = list(made.shape) if isinstance(made, Tensor) else f"a {type(made).__name__}"
    if found not in shapes:
        raise ValueError(
            f"{name} made {found} of features {list(features.shape)}. A trunk makes [B, T, H], here {shapes[0]}, or "
            f"[B, 1, H] where all tasks read the same, {shapes[1]}."
        )
    learn = {name: each for name, each in trunk.named_parameters() if each.requires_grad}
    if not learn:
        return
    total = made.sum() + 0 * features.requires_grad_().sum()  # there is something to go back through in any case
    reached = torch.autograd.grad(total, list(learn.values()), allow_unused=True)
    if unused := [each for each, gradient in zip(learn, reached, strict=True) if gradient is None]:
        raise ValueError(
            f"{name}: nothing that it makes depends on its parameters {unused}, so they would never learn, and "
            f"training on several ranks would wait for their gradients. Use them in forward, freeze or remove them."
        )
