"""MultiHeadTargetAttention against its formula on padded float64 rows."""

import dataclasses

import pytest
import torch

from tests.sequences.reference import assert_equals_reference, mask, masked_softmax, pad
from torchrec_mtl.sequences import MultiHeadTargetAttention, SequenceWidths
from torchrec_mtl.testing.sequence_batches import LENGTHS, MAX_LENGTH, WIDTHS, batch


def heads(values, num_heads):
    return torch.stack(values.chunk(num_heads, dim=-1), dim=1)  # [B, H, …, d]


def normed(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def reference(state, sequence, num_heads):
    filled = mask(sequence.offsets, MAX_LENGTH)
    k, p = (pad(side, sequence.offsets, MAX_LENGTH) for side in (sequence.items, sequence.properties))
    table = state["positions.weight"]
    age = (sequence.offsets.diff()[:, None] - 1 - torch.arange(MAX_LENGTH)).clamp(0, len(table) - 1)
    x = torch.cat([k, p], dim=2) @ state["steps.weight"].T + state["steps.bias"] + table[age]  # [B, L, M]

    q, key, value = (heads(x @ w.T, num_heads) for w in state["among.weight"].chunk(3))  # [B, H, L, d]
    scale = key.shape[-1] ** -0.5
    scores = torch.einsum("bhid,bhjd->bjhi", q, key) * scale  # the softmax is over the read step, j
    mixed = torch.einsum("bjhi,bhjd->bihd", masked_softmax(scores, filled), value).flatten(2)
    x = x + mixed @ state["mixed.weight"].T + state["mixed.bias"]
    x = normed(x, state["norm.weight"], state["norm.bias"])

    target = heads(sequence.query @ state["target.weight"].T + state["target.bias"], num_heads)  # [B, H, d]
    key, value = (heads(x @ w.T, num_heads) for w in state["read.weight"].chunk(2))
    weights = masked_softmax(torch.einsum("bhd,bhjd->bjh", target, key) * scale, filled)
    return torch.einsum("bjh,bhjd->bhd", weights, value).flatten(1) @ state["output.weight"].T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("widths", "options"),
    [
        (WIDTHS, {"num_heads": 2}),
        (WIDTHS, {"num_heads": 1, "positions": 1}),
        (SequenceWidths(5, 3), {"num_heads": 3, "width": 12, "positions": 4}),
    ],
    ids=["two heads", "one head, one position", "own width, few positions"],
)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_self_attention_equals_the_formula(lengths, widths, options, dtype):
    torch.manual_seed(0)
    block = MultiHeadTargetAttention(widths, **options)
    torch.nn.init.normal_(block.positions.weight)  # large enough to be seen
    heads_ = options["num_heads"]
    assert_equals_reference(block, lambda state, x: reference(state, x, heads_), batch(lengths, widths), dtype)


def test_positions_count_from_the_newest_step():
    """Rows of 2 and of 5 steps: only what is 3 or 4 steps old, in the long row, feels the table's entries 3 and 4."""
    torch.manual_seed(0)
    block, sequence = MultiHeadTargetAttention(WIDTHS, positions=6), batch([2, 5])
    before = block(sequence)
    with torch.no_grad():
        block.positions.weight[3:5] += torch.randn(2, 8)
    after = block(sequence)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])
    with torch.no_grad():
        block.positions.weight[5] += 1  # no row is that long
    assert torch.equal(block(sequence), after)


def test_without_positions_the_order_is_not_seen():
    torch.manual_seed(0)
    sequence = batch([5], dtype=torch.float64)
    turned = dataclasses.replace(sequence, items=sequence.items.flip(0), properties=sequence.properties.flip(0))
    for positions, seen in ((1, False), (6, True)):
        block = MultiHeadTargetAttention(WIDTHS, positions=positions).double()
        assert torch.allclose(block(turned), block(sequence)) is not seen


@pytest.mark.parametrize(
    ("widths", "options", "text"),
    [
        (SequenceWidths(8, 0), {}, "the query attends, but found query=0"),
        (SequenceWidths(9, 9), {}, "num_heads must divide width=9, but found num_heads=2"),
        (WIDTHS, {"num_heads": 0}, "num_heads must divide width=8, but found num_heads=0"),
        (WIDTHS, {"positions": 0}, "positions must be at least 1, but found 0"),
        (WIDTHS, {"width": 0}, "out_features must be at least 1, but found 0"),
    ],
)
def test_self_attention_refuses(widths, options, text):
    with pytest.raises(ValueError, match=f"MultiHeadTargetAttention: {text}"):
        MultiHeadTargetAttention(widths, **options)


def test_positions_start_small_beside_the_items():
    torch.manual_seed(0)
    block = MultiHeadTargetAttention(SequenceWidths(items=16, query=16), positions=500)
    assert block.positions.weight.std().item() == pytest.approx(0.02, rel=0.05)  # as in BERT
