"""PropertyGatedLSTM against its equations, row by row, and against torch's LSTM."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.sequences.reference import assert_equals_reference
from torchrec_mtl.sequences import PropertyGatedLSTM, SequenceWidths
from torchrec_mtl.testing.sequence_batches import LENGTHS, WIDTHS, batch


def states(state, sequence, prefix=""):
    """``[V, H]``: the equations, one row and one step after another; weights stand in the order i, f, o, candidate."""
    w, u, b = (state[f"{prefix}{name}"].chunk(4) for name in ("weight_item", "weight_state", "bias"))
    v = state[f"{prefix}weight_property"].chunk(3) if f"{prefix}weight_property" in state else None
    found, ends = [], sequence.offsets.tolist()
    for start, end in pairwise(ends):
        h = c = w[0].new_zeros(len(w[0]))
        for t in range(start, end):
            e, p = sequence.items[t], sequence.properties[t]
            gates = [w[g] @ e + u[g] @ h + b[g] + (0 if v is None else v[g] @ p) for g in range(3)]
            i, f, o = (1 / (1 + torch.exp(-gate)) for gate in gates)
            c = f * c + i * torch.tanh(w[3] @ e + u[3] @ h + b[3])
            h = o * torch.tanh(c)
            found.append(h)
    return torch.stack(found) if found else w[0].new_zeros(0, len(w[0])) + 0 * w[0].sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("widths", [WIDTHS, SequenceWidths(5, 5)], ids=["properties", "no properties"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_lstm_equals_its_equations(lengths, widths, dtype):
    torch.manual_seed(0)
    block = PropertyGatedLSTM(widths.items, widths.properties, 6)
    assert_equals_reference(block, states, batch(lengths, widths), dtype)


def test_without_properties_it_is_torchs_lstm():
    block, plain = PropertyGatedLSTM(8, 0, 3).double(), nn.LSTM(8, 3, batch_first=True).double()

    def as_torch(weight):  # torch's order is i, f, candidate, o
        i, f, o, candidate = weight.detach().chunk(4)
        return torch.cat([i, f, candidate, o])

    with torch.no_grad():
        plain.weight_ih_l0.copy_(as_torch(block.weight_item))
        plain.weight_hh_l0.copy_(as_torch(block.weight_state))
        plain.bias_ih_l0.copy_(as_torch(block.bias))
        plain.bias_hh_l0.zero_()
    sequence = batch([4, 4, 4], SequenceWidths(8, 8), torch.float64)
    torch.testing.assert_close(block(sequence), plain(sequence.items.view(3, 4, 8))[0].flatten(0, 1))


def test_properties_reach_the_gates_and_not_the_candidate():
    """With all other weights zero the candidate is tanh(0) whatever the properties: nothing is ever remembered."""
    block, sequence = PropertyGatedLSTM(8, 4, 3), batch([3, 2])
    with torch.no_grad():
        block.weight_item.zero_()
        block.weight_state.zero_()
        block.bias.zero_()
        block.weight_property.fill_(5.0)
    assert not block(sequence).any()
    with torch.no_grad():
        block.bias[9:].fill_(1.0)  # the candidate's
    one, other = block(sequence)[:2]
    assert not torch.allclose(one, other)


def test_lstm_keeps_its_precision_under_autocast():
    block, sequence = PropertyGatedLSTM(8, 4, 3), batch([6, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = block(sequence)
    assert torch.equal(mixed, block(sequence))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_lstm_refuses(sizes):
    items, properties, state = sizes
    text = f"but found items={items}, state={state} and properties={properties}"
    with pytest.raises(ValueError, match=f"PropertyGatedLSTM: items and state must be at least 1 .*{text}"):
        PropertyGatedLSTM(*sizes)
