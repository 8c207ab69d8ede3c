"""Attention among the steps of a row, then of the candidate to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from torchrec_mtl.sequences.attention import JaggedSequence, SequenceAttention, SequenceWidths
from torchrec_mtl.sequences.jagged import ages, padded, row_softmax, row_sums, unpadded


class Positions(nn.Embedding):
    """Embeddings of ages, which start small beside the items, as in BERT."""

    def reset_parameters(self) -> None:
        """Draws the embeddings anew."""
        super().reset_parameters()
        nn.init.normal_(self.weight, std=0.02)


class MultiHeadTargetAttention(SequenceAttention):
    r"""Multi-head self-attention among a row's steps, then multi-head attention of the candidate q to them.

    .. math::
        x_j &= W [k_j, p_j] + b + e_{\mathrm{age}(j)} \\
        y &= \mathrm{LayerNorm}(x + W_o\,\mathrm{SelfAttention}(x)) \\
        s &= W_s\,\Big[\textstyle\sum_j \mathrm{softmax}_j\big(\langle Q_h q, K_h y_j\rangle / \sqrt{d}\big)\,
        V_h y_j\Big]_h

    The learned positions e are counted from the newest step, whose age is 0, so that "the last purchase" is the same
    place in a short and in a long history. Only the self-attention is padded, to the longest row.

    Args:
        widths: Widths of what it reads; properties may be missing. The user side is not read.
        width: Width of the heads together, ``M = S``; by default that of an item.
        num_heads: Number of heads, each ``d = M / num_heads`` wide.
        positions: Number of ages that are told apart; older steps share the last.

    Shapes:
        sequence: ``V`` steps in ``B`` rows; returns ``[B, M]``.

    Raises:
        ValueError: If there is no query, the heads do not divide the width, or there is no position.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017; for behaviours Zhou et al., ATRank, AAAI 2018.

    Example::

        MultiHeadTargetAttention(SequenceWidths(items=8, query=8), num_heads=2)(sequence).shape  # torch.Size([B, 8])
    """

    def __init__(
        self, widths: SequenceWidths, *, width: int | None = None, num_heads: int = 2, positions: int = 64
    ) -> None:
        width = widths.items if width is None else width
        super().__init__(widths, out_features=width)
        if widths.query < 1:
            raise ValueError(f"MultiHeadTargetAttention: the query attends, but found query={widths.query}.")
        if num_heads < 1 or width % num_heads:
            raise ValueError(
                f"MultiHeadTargetAttention: num_heads must divide width={width}, but found num_heads={num_heads}."
            )
        if positions < 1:
            raise ValueError(f"MultiHeadTargetAttention: positions must be at least 1, but found {positions}.")
        self.num_heads = num_heads
        self.steps = nn.Linear(widths.items + widths.properties, width)
        self.positions = Positions(positions, width)
        self.among = nn.Linear(width, 3 * width, bias=False)  # softmax does not see a bias of the keys
        self.mixed = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.target = nn.Linear(widths.query, width)
        self.read = nn.Linear(width, 2 * width, bias=False)  # keys and values
        self.output = nn.Linear(width, width, bias=False)  # no bias: a row without steps gives zeros

    def forward(self, sequence: JaggedSequence) -> Tensor:
        """Maps ``V`` steps in ``B`` rows to ``[B, M]``."""
        owners = sequence.owners()
        place = ages(sequence, owners).clamp(max=self.positions.num_embeddings - 1)
        steps = self.steps(torch.cat([sequence.items, sequence.properties], dim=1)) + self.positions(place)  # [V, M]
        steps = self.norm(steps + self.mixed(self._among_steps(steps, sequence)))
        return self.output(self._read_by_target(steps, sequence, owners)).to(sequence.items.dtype)

    def _among_steps(self, steps: Tensor, sequence: JaggedSequence) -> Tensor:
        """Self-attention of each row's steps, ``[V, M]``."""
        length = sequence.padded_length()
        places = padded(self.among(steps), sequence, length)  # [B, L, 3M]
        query, key, value = places.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, L, d]
        ends = sequence.lengths.clamp(min=1).unsqueeze(1)  # not every kernel bears a row masked throughout
        filled = torch.arange(length, device=ends.device) < ends  # [B, L]
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=filled[:, None, None])
        return unpadded(mixed.transpose(1, 2).flatten(2), sequence)

    def _read_by_target(self, steps: Tensor, sequence: JaggedSequence, owners: Tensor) -> Tensor:
        """Attention of the candidate to its row's steps, ``[B, M]``."""
        key, value = self.read(steps).unflatten(1, (2, self.num_heads, -1)).unbind(1)  # each [V, H, d]
        query = self.target(sequence.query).index_select(0, owners).unflatten(1, (self.num_heads, -1))
        scores = (query * key).sum(dim=2) * key.shape[2] ** -0.5  # [V, H]
        weights = row_softmax(scores, sequence, owners).unsqueeze(2)
        return row_sums((weights * value).flatten(1), owners, sequence.num_rows).to(steps.dtype)
