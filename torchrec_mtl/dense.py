"""What becomes of dense features before they meet the embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_mtl.meta import real_device


class DenseEncoder(nn.Module, ABC):
    """Maps dense features ``[B, F]`` to ``[B, D_f]``, with statistics that travel in the checkpoint as buffers.

    Args:
        in_features: Number of dense features, ``F``.
        out_features: Width of the encoding, ``D_f``.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    @property
    def sources(self) -> Sequence[int]:
        """For each encoded column the dense feature that it comes from; empty where it comes from several.

        With it, a job can name single dense features for some towers only.
        """
        return ()

    @abstractmethod
    def fit(self, sample: np.ndarray) -> None:
        """Takes its statistics from rows ``[N, F]`` of the training split."""

    @abstractmethod
    def forward(self, dense: Tensor) -> Tensor:
        """Maps ``[B, F]`` to ``[B, D_f]``."""


class QuantileEncoder(DenseEncoder):
    r"""Each feature twice: standardised, and as its place among the training split's quantiles.

    With mean :math:`\mu`, deviation :math:`s` and the distinct values :math:`k_0 < … < k_n` of the training split's
    quantiles, a value x becomes :math:`(x - \mu)/s` and :math:`\sqrt 3\,(2 q(x) - 1)`, where q rises linearly from
    ``i/n`` at :math:`k_i` to ``(i+1)/n`` at :math:`k_{i+1}` and is 0 and 1 outside. The place gives a network what
    trees find by themselves: it is blind to the scale and the tails of a feature, and steep where its values lie close
    together. The factor gives a uniform place unit variance.

    Args:
        in_features: Number of dense features, ``F``.
        quantiles: Number of quantiles at most, at least 2.

    Shapes:
        dense: ``[B, F]``; returns ``[B, 2F]``.

    Raises:
        ValueError: If ``quantiles`` is below 2, or ``fit`` gets other than ``[N, F]`` finite numbers.

    Source: rank and piecewise-linear inputs after Gorishniy et al., On Embeddings for Numerical Features in Tabular
    Deep Learning, NeurIPS 2022; the one-dimensional place is this project's simplification of their encoding.

    Example::

        encoder = QuantileEncoder(1, quantiles=3)
        encoder.fit(np.array([[0.0], [1.0], [10.0]]))
        encoder(torch.tensor([[1.0]]))[0, 1]  # 0: the median
    """

    mean: Tensor
    deviation: Tensor
    knots: Tensor
    places: Tensor

    def __init__(self, in_features: int, *, quantiles: int = 65) -> None:
        super().__init__(in_features, 2 * in_features)
        if quantiles < 2:
            raise ValueError(f"QuantileEncoder: quantiles must be at least 2, but found {quantiles}.")
        self.quantiles = quantiles
        device = real_device()
        even = torch.linspace(-1, 1, quantiles, device=device)
        self.register_buffer("mean", torch.zeros(in_features, device=device))
        self.register_buffer("deviation", torch.ones(in_features, device=device))
        self.register_buffer("knots", even.repeat(in_features, 1))  # [F, Q], ascending
        self.register_buffer("places", even.repeat(in_features, 1))  # [F, Q], q at each

    @property
    def sources(self) -> Sequence[int]:
        """All features, twice."""
        return [*range(self.in_features)] * 2

    def fit(self, sample: np.ndarray) -> None:
        """Takes mean, deviation and quantiles from rows ``[N, F]``."""
        if sample.ndim != 2 or sample.shape[1] != self.in_features or not len(sample) or not np.isfinite(sample).all():
            raise ValueError(
                f"QuantileEncoder: expected finite numbers of shape [N, {self.in_features}] with N > 0, but found "
                f"shape {list(sample.shape)}."
            )
        sample = sample.astype(np.float64)
        deviation = sample.std(axis=0)
        self.mean.copy_(torch.from_numpy(sample.mean(axis=0)))
        self.deviation.copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0)))  # a constant has none
        for feature, column in enumerate(sample.T):
            knots = np.unique(np.quantile(column, np.linspace(0, 1, self.quantiles)).astype(np.float32))
            padding = (0, self.quantiles - len(knots))
            self.knots[feature] = torch.from_numpy(np.pad(knots, padding, mode="edge"))
            places = np.linspace(-1, 1, len(knots)) if len(knots) > 1 else np.zeros(1)
            self.places[feature] = torch.from_numpy(np.pad(places, padding, mode="edge"))

    def forward(self, dense: Tensor) -> Tensor:
        """Maps ``[B, F]`` to ``[B, 2F]``: standardised values, then places."""
        columns = dense.t().contiguous()  # [F, B]
        above = torch.searchsorted(self.knots, columns, right=True).clamp(1, self.quantiles - 1)  # [F, B]
        low, high = self.knots.gather(1, above - 1), self.knots.gather(1, above)
        width = torch.where(high > low, high - low, 1)  # padding repeats the last knot
        share = ((columns - low) / width).clamp(0, 1)
        place = torch.lerp(self.places.gather(1, above - 1), self.places.gather(1, above), share)
        return torch.cat([(dense - self.mean) / self.deviation, 3**0.5 * place.t()], dim=1)
