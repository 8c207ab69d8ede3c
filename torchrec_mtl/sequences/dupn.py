"""Attention of user and query to the items of the past, steered by their properties."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrec_mtl.sequences.attention import JaggedSequence, SequenceAttention, SequenceWidths
from torchrec_mtl.sequences.jagged import row_softmax, row_sums
from torchrec_mtl.sequences.property_gated_lstm import PropertyGatedLSTM


class DUPN(SequenceAttention):
    r"""Deep User Perception Network: query q and user u attend to the items, steered by their properties p.

    .. math::
        s = \sum_{j=1}^{n} \alpha_j h_j, \qquad
        \alpha = \mathrm{softmax}_j\big(w^\top \tanh(W [h_j, p_j] + C [q, u] + b)\big)

    where h are the items themselves, or the states of a :class:`PropertyGatedLSTM` over them. The properties steer
    the weights (and the gates), the items carry the content.

    Args:
        widths: Widths of what it reads; properties may be missing, and query or user, but not both; ``S = D``.
        hidden: Width of the attention's hidden layer, ``A``.
        recurrent: Whether the property-gated LSTM, with a state as wide as an item, runs before the attention.

    Shapes:
        sequence: ``V`` steps in ``B`` rows; returns ``[B, D]``.

    Raises:
        ValueError: If there is neither query nor user, or ``hidden`` is below 1.

    Source: Ni et al., Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce
    Tasks, KDD 2018 (arXiv 1805.10727). The attention without recurrence is an addition.

    Example::

        DUPN(SequenceWidths(items=8, query=8, properties=4, user=4), recurrent=True)(sequence).shape  # [B, 8]
    """

    def __init__(self, widths: SequenceWidths, *, hidden: int = 32, recurrent: bool = False) -> None:
        super().__init__(widths, out_features=widths.items)
        if widths.query + widths.user < 1:
            raise ValueError(
                f"DUPN: query and user attend to the items, so one of them must have a width, but found "
                f"query={widths.query} and user={widths.user}."
            )
        if hidden < 1:
            raise ValueError(f"DUPN: hidden must be at least 1, but found {hidden}.")
        self.recurrence = PropertyGatedLSTM(widths.items, widths.properties, widths.items) if recurrent else None
        self.steps = nn.Linear(widths.items + widths.properties, hidden, bias=False)
        self.context = nn.Linear(widths.query + widths.user, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)  # softmax does not see a constant

    def forward(self, sequence: JaggedSequence) -> Tensor:
        """Maps ``V`` steps in ``B`` rows to ``[B, D]``."""
        owners, dtype = sequence.owners(), sequence.items.dtype
        content = sequence.items if self.recurrence is None else self.recurrence(sequence).to(dtype)  # [V, D]
        context = self.context(torch.cat([sequence.query, sequence.user], dim=1))  # [B, A]
        steps = self.steps(torch.cat([content, sequence.properties], dim=1))  # [V, A]
        scores = self.score(torch.tanh(steps + context.index_select(0, owners)))  # [V, 1]
        weights = row_softmax(scores, sequence, owners)
        return row_sums(weights * content, owners, sequence.num_rows).to(dtype)
