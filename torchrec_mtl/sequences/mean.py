"""The mean of a row's items."""

from __future__ import annotations

from torch import Tensor

from torchrec_mtl.sequences.attention import JaggedSequence, SequenceAttention, SequenceWidths
from torchrec_mtl.sequences.jagged import row_sums


class MeanPooling(SequenceAttention):
    r"""The mean of the items, whatever the candidate: :math:`s = \frac{1}{n}\sum_{j=1}^{n} k_j`.

    The measure for every attention: it has no parameter, and reads neither query nor properties nor user.

    Args:
        widths: Widths of what it reads; ``S = D``.

    Shapes:
        sequence: ``V`` steps in ``B`` rows; returns ``[B, D]``.

    Source: Covington, Adams and Sargin, Deep Neural Networks for YouTube Recommendations, RecSys 2016.

    Example::

        MeanPooling(SequenceWidths(items=8, query=8))(sequence).shape  # torch.Size([B, 8])
    """

    def __init__(self, widths: SequenceWidths) -> None:
        super().__init__(widths, out_features=widths.items)

    def forward(self, sequence: JaggedSequence) -> Tensor:
        """Maps ``V`` steps in ``B`` rows to ``[B, D]``."""
        sums = row_sums(sequence.items, sequence.owners(), sequence.num_rows)
        return (sums / sequence.lengths.clamp(min=1).unsqueeze(1)).to(sequence.items.dtype)
