"""Every balancer, present and future, by discovery."""

import pytest

from torchrec_mtl.balancers import Balancer, FixedWeights
from torchrec_mtl.testing.balancers import BALANCER_CHECKS
from torchrec_mtl.testing.modules import every_subclass

BALANCERS = every_subclass(Balancer)


def test_discovery_finds_the_balancers():
    assert FixedWeights in BALANCERS


@pytest.mark.parametrize("check", BALANCER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("balancer_class", BALANCERS)
def test_every_balancer(balancer_class, check):
    check(balancer_class)


def test_a_balancer_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Balancer([1.0])
