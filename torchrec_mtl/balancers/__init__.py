"""Rules that balance tasks: one file each."""

from torchrec_mtl.balancers.balancer import Balancer
from torchrec_mtl.balancers.fixed import FixedWeights

__all__ = ["Balancer", "FixedWeights"]
