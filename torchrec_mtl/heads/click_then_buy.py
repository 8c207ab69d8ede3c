"""K products on one page: one is clicked, perhaps bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchrec_mtl.heads.link import Link


class ClickThenBuy(Link):
    r"""Which of K products is bought, if any: :math:`P(c = k, b = 1) = \pi_k \sigma(v_k)`.

    The click is :math:`c \in \{0, \dots, K\}` with :math:`\pi = \mathrm{softmax}(z)`, 0 being no click, and
    :math:`\sigma(v_k)` the probability that a clicked product k is bought. The output holds the log-probabilities

    .. math::
        \log P_k = \log\pi_k + \log\sigma(v_k), \qquad
        \log P_0 = \mathrm{logsumexp}(\log\pi_0, \{\log\pi_k + \log\sigma(-v_k)\}_{k=1}^{K})

    of buying product k and of buying nothing. They sum to 1, so they are also logits of a softmax: cross-entropy on
    them (:class:`~torchrec_mtl.tasks.choice.BoughtProductTask`) is the **entire-space form**, trained beside the
    cross-entropy of the click over z. It stands instead of the **conditional form**, a
    :class:`~torchrec_mtl.tasks.choice.ChosenBinaryTask` on v that learns from clicked rows, never beside it: give one
    of the two weight 0. In the conditional form the link serves and measures the joint probabilities. Products are
    ranked by :math:`P_k` times their value.

    Args:
        name: Name of the output, for instance ``"bought"``.
        of: ``(click, buy)``: the outputs z and v.
        always_clicked: Every row has a click, so z has no column for none and :math:`\pi_0 = 0`.

    Shapes:
        outputs: click ``[B, K + 1]``, column 0 for no click, or ``[B, K]`` if ``always_clicked``; buy ``[B, K]``.
        Returns ``[B, K + 1]`` float32 log-probabilities, column 0 for nothing bought.

    Raises:
        ValueError: If there are not exactly two names; on use, if the numbers of columns do not fit each other.

    Source: derived; the factorisation is ESMM's (Ma et al., SIGIR 2018) with a choice in place of one click.

    Example::

        heads = TaskHeads(
            {"click": Tower(32, outputs=5), "buy": Tower(32, outputs=4)},  # four products, or no click
            links=[ClickThenBuy("bought", of=("click", "buy"))],
        )
    """

    def __init__(self, name: str, of: Sequence[str], *, always_clicked: bool = False) -> None:
        super().__init__(name, of)
        if len(self.of) != 2:
            raise ValueError(f"ClickThenBuy '{name}': 'of' must name two outputs (click, buy), but found {list(of)}.")
        self.always_clicked = always_clicked

    @property
    def steps(self) -> tuple[str, ...]:
        """All that it reads, in order."""
        return self.of

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Maps the logits of the click and of the purchases to joint log-probabilities."""
        click, buy = (outputs[name].float() for name in self.of)
        self._check(click, buy)
        log_click = click.log_softmax(dim=1)
        none, product = log_click.split([log_click.shape[1] - buy.shape[1], buy.shape[1]], dim=1)  # [B, 0 or 1], [B, K]
        nothing = torch.cat([none, product + logsigmoid(-buy)], dim=1).logsumexp(dim=1, keepdim=True)
        return torch.cat([nothing, product + logsigmoid(buy)], dim=1)

    def _check(self, click: Tensor, buy: Tensor) -> None:
        extra = 0 if self.always_clicked else 1
        if click.ndim != 2 or buy.ndim != 2 or click.shape[1] != buy.shape[1] + extra:
            expected = "[B, K] and [B, K]" if self.always_clicked else "[B, K + 1] (column 0: no click) and [B, K]"
            raise ValueError(
                f"ClickThenBuy '{self.name}' with always_clicked={self.always_clicked} reads {expected}, but "
                f"'{self.of[0]}' has shape {list(click.shape)} and '{self.of[1]}' {list(buy.shape)}. "
                f"Correct the towers' outputs, or always_clicked."
            )
