"""What would fail in its first step is refused before it, by its name."""

import copy

import pytest
import torch
from torch import nn

from tests.small import FEATURES, make_batch, make_embeddings, make_model
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.balancers import Balancer
from torchrec_mtl.heads import Head, ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.rehearsal import rehearse
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.trunks import LayerOptions, SharedBottom, Trunk

WIDTH = FEATURES.width


class Own(Trunk):
    """A trunk of somebody's."""

    def __init__(self, in_features=WIDTH, num_tasks=2):
        super().__init__(in_features, num_tasks, out_features=8)
        self.used = nn.Linear(in_features, 16)
        self.idle = nn.Linear(in_features, 1)

    def forward(self, features):
        vectors = self.used(features).unflatten(1, (2, 8))
        return vectors + 0 * self.idle(features).unsqueeze(2)


class Flat(Own):
    def forward(self, features):
        return super().forward(features)[:, 0]


class Wide(Own):
    def forward(self, features):
        return super().forward(features).repeat(1, 1, 2)


class Several(Own):
    def forward(self, features):
        return super().forward(features), features


class Failing(Own):
    def forward(self, features):
        return super().forward(features.T)


class Idle(Own):
    def forward(self, features):
        return self.used(features).unflatten(1, (2, 8))


def objective_of(trunk):
    model = MultiTaskModel(make_embeddings(), trunk, TaskHeads({"ctr": Tower(8), "cvr": Tower(8)}))
    return MultiTaskObjective(model, [BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase")])


@pytest.mark.parametrize(
    ("trunk", "text"),
    [
        (Flat, rf"Flat made \[2, 8\] of features \[2, {WIDTH}\]. A trunk makes \[B, T, H\], here \[2, 2, 8\], or"),
        (Wide, r"Wide made \[2, 2, 16\] of features .* where all tasks read the same, \[2, 1, 8\]"),
        (Several, r"Several made a tuple of features"),
        (Failing, rf"Failing fails on features \[2, {WIDTH}\]: mat1 and mat2 shapes cannot be multiplied"),
        (Idle, r"Idle: nothing .* depends on its parameters \['idle.weight', 'idle.bias'\], so they would never learn"),
    ],
)
def test_a_trunk_that_breaks_its_contract_is_refused(trunk, text):
    with pytest.raises(ValueError, match=text):
        objective_of(trunk())


def test_what_is_frozen_needs_no_gradient():
    trunk = Idle()
    trunk.idle.requires_grad_(False)
    objective_of(trunk)
    for parameter in trunk.parameters():
        parameter.requires_grad_(False)
    rehearse(trunk)


def test_the_trunk_and_random_numbers_stay_as_they_were():
    trunk = SharedBottom(WIDTH, 2, layers=[8], options=LayerOptions(dropout=0.5, norm=nn.BatchNorm1d))
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    random = torch.get_rng_state()
    rehearse(trunk)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in trunk.parameters())
    assert trunk.training


def test_one_without_storage_is_left_alone():
    with torch.device("meta"):
        rehearse(Flat())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_one_that_cannot_be_copied_is_left_alone():
    trunk = Own()
    trunk.used = nn.utils.weight_norm(trunk.used)
    with pytest.raises(RuntimeError):
        copy.deepcopy(trunk)
    rehearse(trunk)


class Column(Head):
    """Forgets to squeeze."""

    def __init__(self, in_features=8):
        super().__init__()
        self.linear = nn.Linear(in_features, 1)

    def forward(self, features):
        return self.linear(features)


def test_a_head_that_makes_a_column_is_named():
    model = MultiTaskModel(
        make_embeddings(),
        SharedBottom(WIDTH, 2, layers=[8]),
        TaskHeads({"ctr": Tower(8), "cvr": Column()}, [ProbabilityProduct("ctcvr", of=("ctr", "cvr"))]),
    )
    tasks = [BinaryTask("ctr", "click"), BinaryTask("ctcvr", "purchase")]
    with pytest.raises(
        ValueError, match=r"Tower 'cvr', a Column, made \[1, 1\] of one row. A head makes \[B\], one value"
    ):
        MultiTaskObjective(model, tasks)


class Unsummed(Balancer):
    """Forgets to sum."""

    def forward(self, losses):
        return self.weights * losses


def test_a_balancer_that_makes_no_scalar_is_named():
    model = make_model(links=())
    tasks = [BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase", label_space="click")]
    objective = MultiTaskObjective(model, tasks, Unsummed)
    with pytest.raises(ValueError, match=r"Unsummed made \[2\] of the losses of 2 tasks. A balancer makes one number"):
        objective(make_batch({"click": [1, 0], "purchase": [1, 0]}))
