"""What every head must do."""

from functools import partial

import torch

from torchrec_mtl.testing.modules import (
    IN_FEATURES,
    ROWS,
    accepts_a_batch_of_one_row_and_of_none,
    assert_close_for_bfloat16,
    gives_every_parameter_a_gradient,
    loads_its_own_state,
    made,
    repeats_itself_when_evaluated,
    rows,
    sees_each_row_alone_when_evaluated,
    starts_on_meta_as_on_a_real_device,
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
    starts_on_meta_as_on_a_real_device,
    head_gives_float32_from_any_input,
    accepts_a_batch_of_one_row_and_of_none,
    gives_every_parameter_a_gradient,
    loads_its_own_state,
    repeats_itself_when_evaluated,
    sees_each_row_alone_when_evaluated,
]


def head_maker(head_class, **arguments):
    return partial(head_class, IN_FEATURES, **arguments)


def assert_head_contract(head_class, **arguments):
    """Runs every check on ``head_class(in_features, **arguments)``."""
    for check in HEAD_CHECKS:
        check(head_maker(head_class, **arguments))
