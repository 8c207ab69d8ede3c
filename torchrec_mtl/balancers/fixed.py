"""The default, and the baseline of every other rule."""

from __future__ import annotations

from torch import Tensor

from torchrec_mtl.balancers.balancer import Balancer


class FixedWeights(Balancer):
    r"""The weighted sum with the tasks' declared weights: :math:`\sum_t w_t L_t`.

    Args:
        weights: The trained tasks' declared weights, ``[T]``.

    Shapes:
        losses: ``[T]``; returns a scalar.

    Raises:
        ValueError: If there is no weight or one is not positive.

    Example::

        FixedWeights([1.0, 0.5])(torch.tensor([2.0, 4.0]))  # tensor(4.)
    """

    def forward(self, losses: Tensor) -> Tensor:
        """Maps ``[T]`` to a scalar."""
        return (self.weights * losses).sum()  # autocast would round a product of matrices
