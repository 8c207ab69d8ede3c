"""Every sequence block, present and future, by discovery."""

import pytest
import torch

from torchrec_mtl.sequences import DUPN, MeanPooling, MultiHeadTargetAttention, SequenceAttention, TargetAttention
from torchrec_mtl.sequences.jagged import row_sums
from torchrec_mtl.testing.modules import every_subclass
from torchrec_mtl.testing.sequences import ATTENTION_CHECKS, assert_attention_contract, attention_maker

BLOCKS = every_subclass(SequenceAttention)


def test_discovery_finds_the_blocks():
    assert {MeanPooling, TargetAttention, DUPN, MultiHeadTargetAttention} <= set(BLOCKS)


@pytest.mark.parametrize("check", ATTENTION_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("block_class", BLOCKS)
def test_every_block(block_class, check):
    check(attention_maker(block_class))


@pytest.mark.parametrize("check", ATTENTION_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    ("block_class", "options"),
    [
        (TargetAttention, {"softmax": True, "hidden": [5]}),
        (DUPN, {"recurrent": True, "hidden": 5}),
        (MultiHeadTargetAttention, {"width": 12, "num_heads": 3, "positions": 2}),
    ],
)
def test_every_option(block_class, options, check):
    check(attention_maker(block_class, **options))


class Centred(SequenceAttention):
    """Breaks the contract: a row sees the others, and a row without steps is not zero."""

    def __init__(self, widths):
        super().__init__(widths, widths.items)

    def forward(self, sequence):
        sums = row_sums(sequence.items, sequence.owners(), sequence.num_rows)
        return sums - sums.mean(0)


class Scoring(SequenceAttention):
    """Breaks the contract: where there is no step, its parameter is not reached."""

    def __init__(self, widths):
        super().__init__(widths, widths.items)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, sequence):
        if not len(sequence.items):
            return sequence.items.sum() + sequence.items.new_zeros(sequence.num_rows, self.out_features)
        return self.scale * row_sums(sequence.items, sequence.owners(), sequence.num_rows)


@pytest.mark.parametrize("broken", [Centred, Scoring])
def test_the_contract_refuses_a_broken_block_from_outside(broken):
    with pytest.raises(AssertionError):
        assert_attention_contract(broken)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Centred, "gives_zeros_for_a_row_without_steps"),
        (Centred, "sees_each_row_alone"),
        (Scoring, "has_finite_gradients_whatever_is_empty"),
    ],
)
def test_a_single_check_sees_its_break(broken, check):
    (found,) = (each for each in ATTENTION_CHECKS if each.__name__ == check)
    with pytest.raises(AssertionError):
        found(attention_maker(broken))
