"""Products in a narrower type while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[Any], tuple[Tensor, Any]]


def slower_products(products: str | None, device: torch.device) -> str | None:
    """What to say of products in bfloat16 on a processor that has no arithmetic for them; ``None`` if it has."""
    if products is None or device.type != "cpu":
        return None
    has = torch.cpu.get_capabilities()
    if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("architecture") != "x86_64":
        return None
    return (
        "training.autocast: this processor has no bfloat16 arithmetic (AVX512_BF16 or AMX), so a step takes "
        "longer than in float32."
    )


def autocast(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> Forward | None:
    """The forward that a TorchRec pipeline takes as ``custom_model_fwd``, under autocast while the model trains.

    The products of dense encoder, attention, trunk and towers are made in ``dtype``. Tables, weights, losses, their
    gradients and optimizer state stay float32, and so does everything in eval mode: a narrow logit makes ties, which
    cost AUC. The backward pass, outside, takes each product's type from its forward.

    Args:
        model: The model.
        device: Its device.
        dtype: ``torch.bfloat16``; ``None`` for float32, which needs no such forward.
    """
    if dtype is None:
        return None

    def forward(batch: Any) -> tuple[Tensor, Any]:
        with torch.autocast(device.type, dtype, enabled=model.training):  # anew each step: it keeps the weights it cast
            return model(batch)

    return forward
