"""Ids as they come in practice: few are frequent, most are rare."""

import numpy as np


def zipf(exponent: float, rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    r"""Draws ids with :math:`p(k) \propto (k + 1)^{-s}` on ``[0, rows)``, exactly and without a table of probabilities.

    Args:
        exponent: ``s``, not 1.
        rows: Number of different ids.
        count: Number of draws, ``N``.
        rng: Source of randomness.

    Shapes:
        Returns ``[N]`` int64; id 0 is the most frequent.

    Raises:
        ValueError: If the exponent is 1 or not positive, or ``rows`` is not.

    Source: Hörmann and Derflinger, Rejection-inversion to generate variates from monotone discrete distributions,
    ACM TOMACS 1996.
    """
    if exponent <= 0 or exponent == 1 or rows < 1:
        raise ValueError(f"Zipf needs an exponent above 0 other than 1, and rows, but found {exponent} and {rows}.")
    power = 1 - exponent

    def integral(x: np.ndarray | float) -> np.ndarray:
        return (np.power(x, power) - 1) / power  # of x^-s, from 1

    drawn = np.empty(0, np.int64)
    low, high = integral(1.5) - 1, integral(rows + 0.5)
    while len(drawn) < count:
        u = rng.uniform(low, high, count - len(drawn))
        x = np.power(1 + u * power, 1 / power)
        k = np.clip(np.rint(x), 1, rows)
        accepted = u >= integral(k + 0.5) - np.power(k, -exponent)
        drawn = np.concatenate([drawn, k[accepted].astype(np.int64) - 1])
    return drawn
