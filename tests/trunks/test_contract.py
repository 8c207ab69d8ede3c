"""Every trunk, present and future, by discovery."""

import pytest
import torch

from torchrec_mtl.testing.modules import IN_FEATURES, assert_every_parameter_gets_a_gradient, every_subclass, rows
from torchrec_mtl.testing.trunks import TRUNK_CHECKS, assert_trunk_contract, trunk_is_pipelined, trunk_maker
from torchrec_mtl.trunks import MMoE, SharedBottom, Trunk

TRUNKS = every_subclass(Trunk)


def test_discovery_finds_the_trunks():
    assert {MMoE, SharedBottom} <= set(TRUNKS)


@pytest.mark.parametrize("check", TRUNK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("trunk_class", TRUNKS)
def test_every_trunk(trunk_class, check):
    check(trunk_maker(trunk_class))


@pytest.mark.parametrize("trunk_class", TRUNKS)
@pytest.mark.parametrize("size", ["in_features", "num_tasks"])
@pytest.mark.parametrize("value", [0, -1])
def test_every_trunk_refuses_a_size_that_is_not_positive(trunk_class, size, value):
    sizes = {"in_features": 4, "num_tasks": 2, size: value}
    with pytest.raises(ValueError, match=rf"{trunk_class.__name__}: every size must be at least 1.*'{size}': {value}"):
        trunk_class(**sizes)


class Forgetful(Trunk):
    """Breaks the contract: a layer that nothing reads."""

    def __init__(self, in_features, num_tasks):
        super().__init__(in_features, num_tasks, out_features=5)
        self.used = torch.nn.Linear(in_features, 5)
        self.unused = torch.nn.Linear(in_features, 5)

    def forward(self, features):
        return self.used(features).unsqueeze(1).expand(-1, self.num_tasks, -1)


class Leaky(Forgetful):
    """Breaks the contract: a row's output depends on the other rows."""

    def forward(self, features):
        return super().forward(features - features.mean(0)) + self.unused(features).unsqueeze(1)


def test_the_contract_sees_an_unused_parameter():
    with pytest.raises(AssertionError, match=r"unused.* gets no gradient"):
        assert_every_parameter_gets_a_gradient(Forgetful(IN_FEATURES, 2), rows())


class Traced(Trunk):
    """Lets TorchRec's tracer in, and branches on what it reads."""

    _is_pytorch_fx_traceable = True

    def __init__(self, in_features, num_tasks):
        super().__init__(in_features, num_tasks, out_features=5)
        self.layer = torch.nn.Linear(in_features, 5)

    def forward(self, features):
        made = self.layer(features).unsqueeze(1)
        return made if made.sum() > 0 else 2 * made


def test_the_contract_sees_that_a_trunk_cannot_be_pipelined():
    before = torch.distributed.is_initialized()
    with pytest.raises(torch.fx.proxy.TraceError, match="symbolically traced variables cannot be used"):
        trunk_is_pipelined(trunk_maker(Traced))
    assert torch.distributed.is_initialized() == before, "the group does not outlive its check"
    Traced._is_pytorch_fx_traceable = False  # as a leaf it may branch
    trunk_is_pipelined(trunk_maker(Traced))
    assert torch.distributed.is_initialized() == before


@pytest.mark.parametrize("broken", [Forgetful, Leaky])
def test_the_contract_refuses_a_broken_trunk_from_outside(broken):
    with pytest.raises((AssertionError, ValueError)):  # a model refuses some by itself
        assert_trunk_contract(broken)
