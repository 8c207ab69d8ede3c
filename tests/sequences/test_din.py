"""TargetAttention against the paper's formula on padded float64 rows."""

import pytest
import torch
from torch import nn

from tests.sequences.reference import assert_equals_reference, mask, masked_softmax, pad
from torchrec_mtl.sequences import SequenceWidths, TargetAttention
from torchrec_mtl.testing.sequence_batches import LENGTHS, MAX_LENGTH, WIDTHS, batch, rows_of


def reference(state, sequence, softmax):
    filled = mask(sequence.offsets, MAX_LENGTH)
    k, p = (pad(side, sequence.offsets, MAX_LENGTH) for side in (sequence.items, sequence.properties))
    q = sequence.query[:, None].expand_as(k)
    x = torch.cat([k, q, k - q, k * q, p], dim=2) @ state["unit_input.weight"].T + state["unit_input.bias"]
    x = x.clamp(min=0) @ state["unit.1.0.weight"].T + state["unit.1.0.bias"]
    weights = x.clamp(min=0) @ state["unit.2.weight"].T  # [B, L, 1]
    weights = masked_softmax(weights, filled) if softmax else (weights + state["unit.2.bias"]) * filled[..., None]
    return (weights * k).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("widths", [WIDTHS, SequenceWidths(5, 5)], ids=["properties", "no properties"])
@pytest.mark.parametrize("softmax", [False, True], ids=["plain", "softmax"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_din_equals_the_formula(lengths, softmax, widths, dtype):
    torch.manual_seed(0)
    block = TargetAttention(widths, hidden=[7, 3], softmax=softmax)
    assert_equals_reference(block, lambda state, x: reference(state, x, softmax), batch(lengths, widths), dtype)


def by_hand(softmax):
    """One feature, and a unit that is ReLU of the product k·q alone, doubled."""
    block = TargetAttention(SequenceWidths(1, 1), hidden=[1], softmax=softmax)
    with torch.no_grad():
        block.unit_input.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
        block.unit_input.bias.zero_()
        block.unit[2].weight.fill_(2.0)
        if not softmax:
            block.unit[2].bias.zero_()
    sequence = batch([3, 1], SequenceWidths(1, 1))
    with torch.no_grad():
        sequence.items.copy_(torch.tensor([[1.0], [2.0], [-1.0], [4.0]]))
        sequence.query.copy_(torch.tensor([[3.0], [-1.0]]))
    return block(sequence).flatten()


def test_din_by_hand():
    # row 0: weights 2·3, 2·6 and 0 (k·q = -3), so 6·1 + 12·2 + 0; row 1: k·q = -4, weight 0
    assert by_hand(softmax=False).tolist() == [30.0, 0.0]


def test_din_with_softmax_by_hand():
    # row 0: scores 6, 12 and 0; row 1: a lone step has the weight 1
    powers = torch.tensor([6.0, 12.0, 0.0]).exp()
    expected = (powers * torch.tensor([1.0, 2.0, -1.0])).sum() / powers.sum()
    torch.testing.assert_close(by_hand(softmax=True), torch.stack([expected, torch.tensor(4.0)]))


def test_the_order_of_the_steps_does_not_matter():
    block, sequence = TargetAttention(WIDTHS).double(), batch([5], dtype=torch.float64)
    turned = rows_of(sequence, [0])
    for side in ("items", "properties"):
        object.__setattr__(turned, side, getattr(sequence, side).flip(0))
    torch.testing.assert_close(block(turned), block(sequence))


def test_the_activation_is_an_option():
    block = TargetAttention(WIDTHS, hidden=[4, 4], activation=nn.PReLU)
    assert sum(isinstance(module, nn.PReLU) for module in block.modules()) == 2


@pytest.mark.parametrize(
    ("widths", "options", "text"),
    [
        (SequenceWidths(8, 6), {}, "both must be of one width, but found query=6 and items=8"),
        (WIDTHS, {"hidden": []}, r"hidden must name at least one width, each at least 1, but found \[\]"),
        (WIDTHS, {"hidden": [0, 4]}, r"hidden must name at least one width, each at least 1, but found \[0, 4\]"),
    ],
)
def test_din_refuses(widths, options, text):
    with pytest.raises(ValueError, match=f"TargetAttention.*{text}"):
        TargetAttention(widths, **options)
