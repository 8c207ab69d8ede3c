"""DUPN against its formula on padded float64 rows."""

import pytest
import torch

from tests.sequences.reference import assert_equals_reference, mask, masked_softmax, pad
from tests.sequences.test_property_gated_lstm import states
from torchrec_mtl.sequences import DUPN, SequenceWidths
from torchrec_mtl.testing.sequence_batches import LENGTHS, MAX_LENGTH, WIDTHS, batch, rows_of


def reference(state, sequence, recurrent):
    steps = states(state, sequence, "recurrence.") if recurrent else sequence.items
    h, p = (pad(side, sequence.offsets, MAX_LENGTH) for side in (steps, sequence.properties))
    of_steps = torch.cat([h, p], dim=2) @ state["steps.weight"].T
    of_row = torch.cat([sequence.query, sequence.user], dim=1) @ state["context.weight"].T + state["context.bias"]
    scores = torch.tanh(of_steps + of_row[:, None]) @ state["score.weight"].T  # [B, L, 1]
    return (masked_softmax(scores, mask(sequence.offsets, MAX_LENGTH)) * h).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "widths",
    [WIDTHS, SequenceWidths(5, 3), SequenceWidths(5, 0, 2, 4)],
    ids=["all sides", "items and query", "no query"],
)
@pytest.mark.parametrize("recurrent", [False, True], ids=["plain", "recurrent"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_dupn_equals_the_formula(lengths, recurrent, widths, dtype):
    torch.manual_seed(0)
    block = DUPN(widths, hidden=6, recurrent=recurrent)
    assert_equals_reference(block, lambda state, x: reference(state, x, recurrent), batch(lengths, widths), dtype)


def test_properties_alone_can_choose_the_item():
    """Two steps with the properties +1 and -1, a steep score: tanh(50) - tanh(-50) = 2, times 20, picks the first."""
    widths = SequenceWidths(2, 1, properties=1)
    block, sequence = DUPN(widths, hidden=1), batch([2], widths)
    with torch.no_grad():
        block.steps.weight.copy_(torch.tensor([[0.0, 0.0, 50.0]]))
        block.context.weight.zero_()
        block.context.bias.zero_()
        block.score.weight.fill_(20.0)
        sequence.properties.copy_(torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(block(sequence), sequence.items[:1])


def test_without_a_score_dupn_is_the_mean():
    block, sequence = DUPN(WIDTHS), batch([3, 4])
    with torch.no_grad():
        block.score.weight.zero_()
    items = sequence.items.detach()
    torch.testing.assert_close(block(sequence), torch.stack([items[:3].mean(0), items[3:].mean(0)]))


@pytest.mark.parametrize("recurrent", [False, True])
def test_only_the_recurrence_sees_the_order(recurrent):
    torch.manual_seed(0)
    block, sequence = DUPN(WIDTHS, recurrent=recurrent).double(), batch([5], dtype=torch.float64)
    turned = rows_of(sequence, [0])
    for side in ("items", "properties"):
        object.__setattr__(turned, side, getattr(sequence, side).flip(0))
    assert torch.allclose(block(turned), block(sequence)) is not recurrent


@pytest.mark.parametrize(
    ("widths", "options", "text"),
    [
        (SequenceWidths(8, 0), {}, "one of them must have a width, but found query=0 and user=0"),
        (WIDTHS, {"hidden": 0}, "hidden must be at least 1, but found 0"),
    ],
)
def test_dupn_refuses(widths, options, text):
    with pytest.raises(ValueError, match=f"DUPN: .*{text}"):
        DUPN(widths, **options)
