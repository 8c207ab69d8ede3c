"""A recurrence whose gates see a step's properties, but whose memory holds its item."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from torchrec_mtl.sequences.attention import JaggedSequence


class PropertyGatedLSTM(nn.Module):
    r"""An LSTM whose gates are steered by the properties p of each step, beside its item e.

    .. math::
        i, f, o &= \sigma(W e_t + U h_{t-1} + V p_t + b) \\
        c_t &= f \odot c_{t-1} + i \odot \tanh(W_c e_t + U_c h_{t-1} + b_c) \\
        h_t &= o \odot \tanh(c_t)

    The candidate state has no properties: they say what to keep, the item says what. Steps of the same number run
    together, over the rows that have one, so the time grows with the longest row and no padding is computed.

    Args:
        items: Width of an item, ``D``.
        properties: Width of a step's properties, ``P``; 0 gives a plain LSTM.
        state: Width of the state, ``H``.

    Shapes:
        sequence: ``V`` steps in ``B`` rows; returns the state after each step, ``[V, H]``, in float32 (or float64).

    Raises:
        ValueError: If ``items`` or ``state`` is below 1, or ``properties`` below 0.

    Source: Ni et al., Perceive Your Users in Depth, KDD 2018 (arXiv 1805.10727).
    """

    def __init__(self, items: int, properties: int, state: int) -> None:
        super().__init__()
        if items < 1 or state < 1 or properties < 0:
            raise ValueError(
                f"PropertyGatedLSTM: items and state must be at least 1 and properties at least 0, but found "
                f"items={items}, state={state} and properties={properties}."
            )
        self.weight_item = nn.Parameter(torch.empty(4 * state, items))  # i, f, o, candidate
        self.weight_state = nn.Parameter(torch.empty(4 * state, state))
        self.weight_property = nn.Parameter(torch.empty(3 * state, properties)) if properties else None  # i, f, o
        self.bias = nn.Parameter(torch.empty(4 * state))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as torch's own LSTM does."""
        bound = self.weight_state.shape[1] ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, sequence: JaggedSequence) -> Tensor:
        """Maps ``V`` steps in ``B`` rows to the state after each step, ``[V, H]``."""
        with torch.autocast(sequence.items.device.type, enabled=False):  # rounding at every step would add up
            dtype = torch.float64 if sequence.items.dtype == torch.float64 else torch.float32
            inputs = self._inputs(sequence, dtype)  # [V, 4H]
            if not len(inputs):
                return inputs[:, : self.weight_state.shape[1]] + 0 * self.weight_state.sum()  # a gradient, if of zeros
            places, sizes = _time_major(sequence)
            order = torch.empty_like(places).scatter_(0, places, torch.arange(len(places), device=places.device))
            states = self._run(inputs.index_select(0, order).split(sizes), dtype)
            return states.index_select(0, places)

    def _inputs(self, sequence: JaggedSequence, dtype: torch.dtype) -> Tensor:
        """What each step brings to gates and candidate, for all steps in one product."""
        inputs = linear(sequence.items.to(dtype), self.weight_item.to(dtype), self.bias.to(dtype))
        if self.weight_property is None:
            return inputs
        gates, candidate = inputs.split([len(self.weight_property), self.weight_state.shape[1]], dim=1)
        gates = gates + linear(sequence.properties.to(dtype), self.weight_property.to(dtype))
        return torch.cat([gates, candidate], dim=1)

    def _run(self, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Runs the recurrence over time; rows that have ended fall off the end.

        Not ``torch.lstm`` on packed steps, whose backward takes five times as long on CPU.
        """
        recurrent = self.weight_state.t().to(dtype)
        width = len(recurrent)
        state = memory = inputs[0].new_zeros(len(inputs[0]), width)
        states = []
        for step in inputs:  # [rows that still have a step, 4H]
            rows = len(step)
            gates, candidate = torch.addmm(step, state[:rows], recurrent).split([3 * width, width], dim=1)
            keep_in, keep_old, let_out = gates.sigmoid().chunk(3, dim=1)
            memory = keep_old * memory[:rows] + keep_in * candidate.tanh()
            state = let_out * memory.tanh()
            states.append(state)
        return torch.cat(states)


def _time_major(sequence: JaggedSequence) -> tuple[Tensor, list[int]]:
    """Each step's place when all first steps stand first (longest row first), then all second ones; and how many."""
    owners, lengths = sequence.owners(), sequence.lengths
    times = torch.arange(len(owners), device=owners.device) - sequence.offsets.index_select(0, owners)
    sizes = torch.bincount(times)
    longest_first = lengths.argsort(descending=True)
    ranks = torch.empty_like(longest_first).scatter_(0, longest_first, torch.arange(len(lengths), device=owners.device))
    starts = sizes.cumsum(0) - sizes
    return starts.index_select(0, times) + ranks.index_select(0, owners), sizes.tolist()
