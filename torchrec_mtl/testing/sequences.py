"""What every sequence block must do."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.sequences import SequenceWidths
from torchrec_mtl.testing.modules import (
    assert_every_parameter_gets_a_gradient,
    made,
    starts_on_meta_as_on_a_real_device,
)
from torchrec_mtl.testing.sequence_batches import LENGTHS, MAX_LENGTH, SIDES, WIDTHS, batch, in_dtype, rows_of

MIXED = LENGTHS["mixed"]


def has_its_shape(make):
    block, sequence = made(make), batch(MIXED)
    assert block.widths == WIDTHS
    assert block(sequence).shape == (len(MIXED), block.out_features)
    assert block(sequence).dtype == torch.float32


def gives_zeros_for_a_row_without_steps(make):
    sequence = batch(MIXED)
    output = made(make)(sequence)
    empty = torch.tensor(MIXED) == 0
    assert torch.equal(output[empty], torch.zeros_like(output[empty]))
    assert (output[~empty].abs().sum(1) > 0).all()


def has_finite_gradients_whatever_is_empty(make):
    for name, lengths in LENGTHS.items():
        block, sequence = made(make), batch(lengths)
        output = block(sequence)
        assert output.shape == (len(lengths), block.out_features), name
        output.sum().backward()
        # without a gradient of zeros, data-parallel training would wait for a rank whose rows are all empty
        for leaf in (sequence.items, *block.parameters()):
            assert leaf.grad is not None, name
        for leaf in (*(getattr(sequence, side) for side in SIDES), *block.parameters()):
            assert leaf.grad is None or leaf.grad.isfinite().all(), name


def gives_every_parameter_a_gradient(make):
    assert_every_parameter_gets_a_gradient(made(make), batch(MIXED))


def needs_neither_properties_nor_user(make):
    widths = SequenceWidths(items=8, query=8)
    block = make.func(widths, **make.keywords)
    assert_every_parameter_gets_a_gradient(block, batch(MIXED, widths))


def sees_each_row_alone(make):
    block = made(make).double().eval()

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, MAX_LENGTH), min_size=1, max_size=7), st.randoms(use_true_random=False))
    def check(lengths, random):
        sequence = batch(lengths, dtype=torch.float64)
        together = block(sequence)
        order = random.sample(range(len(lengths)), k=random.randint(1, len(lengths)))
        torch.testing.assert_close(block(rows_of(sequence, order)), together[order], atol=1e-12, rtol=1e-12)
        single = [block(rows_of(sequence, [row])) for row in range(len(lengths))]
        torch.testing.assert_close(torch.cat(single), together, atol=1e-12, rtol=1e-12)

    check()


def does_not_read_beyond_its_bound(make):
    """A bound far above the longest row changes nothing."""
    block, sequence = made(make).eval(), batch(MIXED)
    wide = copy.copy(sequence)
    object.__setattr__(wide, "max_length", 50 * MAX_LENGTH)
    torch.testing.assert_close(block(wide), block(sequence))


def loads_its_own_state(make):
    first, second, sequence = made(make, seed=0).eval(), made(make, seed=1).eval(), batch(MIXED)
    if not list(first.parameters()):
        assert not first.state_dict()
        return
    assert not torch.equal(first(sequence), second(sequence)), "two seeds give one function: this check sees nothing"
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(sequence), second(sequence))


def repeats_itself_also_as_a_copy(make):
    block, sequence = made(make).eval(), batch(MIXED)
    assert torch.equal(block(sequence), block(sequence))
    assert torch.equal(copy.deepcopy(block)(sequence=sequence), block(sequence))


def computes_under_autocast_and_in_bfloat16(make):
    block, sequence = made(make).eval(), batch(MIXED)
    exact = block(sequence)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = block(sequence)
        void = block(batch(LENGTHS["no steps"]))
    assert mixed.dtype == torch.float32
    assert torch.equal(void, torch.zeros_like(void))
    mixed.square().sum().backward()
    for leaf in (sequence.items, *block.parameters()):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    rough = block.bfloat16()(in_dtype(sequence, torch.bfloat16))
    assert rough.dtype == torch.bfloat16
    for output in (mixed, rough.float()):  # bfloat16 has 8 bits: 0.4 % a rounding
        torch.testing.assert_close(output, exact, atol=0.05, rtol=0.05)


def refuses_what_does_not_fit(make):
    block = made(make)
    with pytest.raises(ValueError, match=r"rows with 3 steps must have the shapes .*, but found .*'properties'"):
        block(batch([2, 1], SequenceWidths(8, 8, 3, 4)))


def starts_on_meta(make):
    starts_on_meta_as_on_a_real_device(make, inputs=partial(batch, MIXED))


ATTENTION_CHECKS = [
    starts_on_meta,
    has_its_shape,
    gives_zeros_for_a_row_without_steps,
    has_finite_gradients_whatever_is_empty,
    gives_every_parameter_a_gradient,
    needs_neither_properties_nor_user,
    sees_each_row_alone,
    does_not_read_beyond_its_bound,
    loads_its_own_state,
    repeats_itself_also_as_a_copy,
    computes_under_autocast_and_in_bfloat16,
    refuses_what_does_not_fit,
]


def attention_maker(block_class, **arguments):
    return partial(partial(block_class, **arguments), WIDTHS)


def assert_attention_contract(block_class, **arguments):
    """Runs every check on ``block_class(widths, **arguments)``."""
    for check in ATTENTION_CHECKS:
        check(attention_maker(block_class, **arguments))
