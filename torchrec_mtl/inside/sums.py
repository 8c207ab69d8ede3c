"""Sums over rows that means, entropies and similarities are made of; they add up over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30  # inside a logarithm: a weight of 0 adds 0 to the entropy
TOP = 0.95  # a row whose largest weight is above it is a choice rather than a mixture

Sums = dict[str, Tensor]  # {name: float64}


def weight_sums(weights: Tensor) -> Sums:
    r"""Rows, and for each reader the sums over rows of weights, entropy and choices.

    The entropy of a row is :math:`-\sum_n g_n \ln g_n`, in nats; it is a choice if :math:`\max_n g_n > 0.95`.

    Shapes:
        weights: ``[B, T, N]``; gives "rows" ``[]``, "weight" ``[T, N]``, "entropy" ``[T]`` and "top" ``[T]``.
    """
    with torch.autocast(weights.device.type, enabled=False):
        g = weights.float()
        return {
            "rows": _rows(g),
            "weight": g.sum(0).double(),
            "entropy": -(g + TINY).log_().mul_(g).sum((0, 2)).double(),  # in place: six times as fast for 64 experts
            "top": (g.amax(-1) > TOP).sum(0).double(),
        }


def vector_sums(vectors: Tensor) -> Sums:
    """Rows, the sum of the vectors over rows, and their products.

    Shapes:
        vectors: ``[B, N, H]``; gives "rows" ``[]``, "vector" ``[N, H]`` and "product" ``[N, N]``, over rows and H.
    """
    with torch.autocast(vectors.device.type, enabled=False):  # which would take the products in 8 bits
        e = vectors.float()
        return {
            "rows": _rows(e),
            "vector": e.sum(0).double(),
            "product": torch.bmm(e, e.transpose(1, 2)).sum(0).double(),
        }


def _rows(values: Tensor) -> Tensor:
    return torch.tensor(float(len(values)), dtype=torch.float64)  # known on the host: nothing to send to the device


def added(one: Sums | None, other: Sums) -> Sums:
    """Adds sums of the same names, in place of the first."""
    if one is None:
        return other
    for name, value in other.items():
        one[name] += value
    return one


def similarity(sums: Sums) -> Tensor:
    r"""Pairwise cosine similarity of experts' outputs, centred over rows, ``[N, N]``.

    .. math:: S_{nm} = \frac{C_{nm}}{\sqrt{C_{nn} C_{mm}}}, \qquad
        C_{nm} = \sum_{b,h} (e_{bnh} - \bar e_{nh}) (e_{bmh} - \bar e_{mh})

    Centred, as outputs after a ReLU all point into one quadrant. 1: what one says of a row the other says too, up to a
    factor and a constant. NaN for an expert that gives the same for every row (to a part in a million).
    """
    rows, product = sums["rows"].clamp_min(1), sums["product"]
    covariance = product - sums["vector"] @ sums["vector"].T / rows
    variance = covariance.diagonal()
    variance = torch.where(variance > 1e-6 * product.diagonal(), variance, float("nan"))
    return (covariance / (variance[:, None] * variance[None, :]).sqrt()).clamp(-1, 1)
