"""What every balancer must do."""

from functools import partial

import pytest
import torch

from torchrec_mtl.testing.modules import started_on_meta


def balancer_gives_a_scalar(make):
    loss = make([1.0, 0.5, 2.0])(torch.tensor([0.3, 0.7, 1.1]))
    assert loss.shape == ()
    assert loss.isfinite()


def balancer_passes_gradient_to_every_loss(make):
    losses = torch.tensor([0.3, 0.7, 1.1], requires_grad=True)
    make([1.0, 0.5, 2.0])(losses).backward()
    assert losses.grad.isfinite().all()
    assert (losses.grad > 0).all(), "a larger loss of any task must not look better"


def balancer_bears_a_loss_of_zero(make):
    losses = torch.zeros(3, requires_grad=True)  # label spaces that are empty on this step
    loss = make([1.0, 0.5, 2.0])(losses)
    loss.backward()
    assert loss.isfinite()
    assert losses.grad.isfinite().all()


def balancer_takes_a_single_task(make):
    assert make([1.0])(torch.tensor([0.3])).shape == ()


def balancer_refuses_weights_that_are_not_positive(make):
    for weights in ([], [1.0, 0.0], [-1.0]):
        with pytest.raises(ValueError, match="needs a positive weight for each task, but found"):
            make(weights)


def balancer_keeps_declared_weights_out_of_the_state(make):
    assert "weights" not in make([1.0, 2.0]).state_dict(), "the job file says the weights, not the checkpoint"


def balancer_keeps_declared_weights_on_meta(make):
    """A dense part may be built there; DistributedModelParallel would make zeros of buffers."""
    expected, found = make([1.0, 2.0]), started_on_meta(partial(make, [1.0, 2.0]))
    assert torch.equal(found.weights, expected.weights)
    assert torch.equal(found(torch.tensor([0.3, 0.7])), expected(torch.tensor([0.3, 0.7])))


BALANCER_CHECKS = [
    balancer_keeps_declared_weights_on_meta,
    balancer_gives_a_scalar,
    balancer_passes_gradient_to_every_loss,
    balancer_bears_a_loss_of_zero,
    balancer_takes_a_single_task,
    balancer_refuses_weights_that_are_not_positive,
    balancer_keeps_declared_weights_out_of_the_state,
]


def assert_balancer_contract(balancer_class, **arguments):
    """Runs every check on ``balancer_class(weights, **arguments)``."""
    for check in BALANCER_CHECKS:
        check(partial(balancer_class, **arguments))
