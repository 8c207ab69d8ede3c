"""ESMM's link: a funnel's end is the product of its steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchrec_mtl.heads.link import Link


class ProbabilityProduct(Link):
    r"""The product of probabilities along a chain, in log space: :math:`p = \prod_{i=1}^{n} \sigma(a_i)`.

    With :math:`\log p = \sum_i \log\sigma(a_i)` and
    :math:`\log(1 - p) = \mathrm{logsumexp}_k(\sum_{i<k} \log\sigma(a_i) + \log\sigma(-a_k))` (the chain breaks first at
    step k) the output is the logit :math:`\log p - \log(1 - p)`. No probability is formed, so nothing under- or
    overflows, no gradient vanishes in a clamp, and the result is a logit like any tower's: every binary task, whatever
    its loss, and every calibration in logit space can read it.

    Args:
        name: Name of the product, for instance ``"ctcvr"``.
        of: The chain's steps in order, for instance ``("ctr", "cvr")``; each a conditional probability given the steps
            before it.
        detach: Steps that learn nothing from the product. With ``detach=("ctr",)`` the loss of pCTCVR reaches pCVR
            alone, :math:`pCTCVR = \mathrm{sg}(pCTR)\, pCVR`, and pCTR learns from clicks only; ESMM detaches none.

    Shapes:
        outputs: ``{name: [B]}`` logits; returns ``[B]`` float32 logits, also under autocast.

    Raises:
        ValueError: If fewer than two steps are named, or one twice; if a detached one is no step, or all are detached.

    Source: the product is ESMM's (Ma et al., SIGIR 2018); the log-space form follows from
    ``1 - Πp_i = Σ_k (1 - p_k) Π_{i<k} p_i``.

    Example::

        link = ProbabilityProduct("ctcvr", of=("ctr", "cvr"))
        link({"ctr": torch.zeros(1), "cvr": torch.zeros(1)}).sigmoid()  # tensor([0.2500])
    """

    def __init__(self, name: str, of: Sequence[str], *, detach: Sequence[str] = ()) -> None:
        super().__init__(name, of)
        if len(self.of) < 2:
            raise ValueError(f"ProbabilityProduct '{name}': a chain needs at least two steps, but found {list(of)}.")
        self.detach = tuple(detach)
        if not set(self.detach) < set(self.of):
            raise ValueError(
                f"ProbabilityProduct '{name}': detach must name some of the steps {list(of)}, not all, "
                f"but found {list(detach)}."
            )

    @property
    def steps(self) -> tuple[str, ...]:
        """All that it reads, in order."""
        return self.of

    def trained(self, stopped: Collection[int] = ()) -> tuple[str, ...]:
        """Names of the steps that are not detached."""
        return tuple(step for step in self.of if step not in self.detach)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Maps the steps' logits to the logit of their product."""
        logits = zip(self.of, self.logits(outputs, self.of), strict=True)
        steps = torch.stack([logit.detach() if name in self.detach else logit for name, logit in logits])  # [n, B]
        log_steps = logsigmoid(steps)
        log_p = log_steps.sum(0)
        reached = torch.cat([torch.zeros_like(log_steps[:1]), log_steps[:-1].cumsum(0)])  # log p of reaching each step
        log_not_p = torch.logsumexp(reached + logsigmoid(-steps), dim=0)  # log1mexp fails when log_p rounds to 0
        return log_p - log_not_p
