"""What every head must do."""

from functools import partial

import torch

from torchrec_mtl.testing.modules import (
    IN_FEATURES,
    MODULE_CHECKS,
    ROWS,
    assert_close_for_bfloat16,
    made,
    rows,
)


def head_gives_float32_from_any_input(make):
    head = made(make).eval()
    exact = head(rows())
    rough = head.bfloat16()(rows(dtype=torch.bfloat16))
    for output in (exact, rough):
        assert output.dtype == torch.float32
        assert output.ndim in (1, 2)
        assert len(output) == ROWS
    assert_close_for_bfloat16(rough, exact)


HEAD_CHECKS = [
    head_gives_float32_from_any_input,
    *MODULE_CHECKS,
]


def head_maker(head_class, **arguments):
    return partial(head_class, IN_FEATURES, **arguments)


def assert_head_contract(head_class, **arguments):
    """Runs every check on ``head_class(in_features, **arguments)``."""
    for check in HEAD_CHECKS:
        check(head_maker(head_class, **arguments))
