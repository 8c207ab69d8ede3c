"""Every task kind, present and future, by discovery: a new kind adds an example."""

from dataclasses import dataclass

import pytest

from torchrec_mtl.tasks import (
    BinaryTask,
    BoughtProductTask,
    ChosenBinaryTask,
    CounterfactualTerm,
    DelayedFeedbackTask,
    DoublyRobustTerm,
    InversePropensityTerm,
    LogRegressionTask,
    MonotonicityTerm,
    MulticlassTask,
    OrdinalTask,
    RegressionTask,
    Task,
    TweedieTask,
    ZeroInflatedLogNormalTask,
)
from torchrec_mtl.testing.modules import every_subclass
from torchrec_mtl.testing.tasks import TASK_CHECKS, assert_task_contract

EXAMPLES = [
    BinaryTask("ctr", "click"),
    BinaryTask("cvr", "purchase", label_space="click", focal_gamma=2.0, label_smoothing=0.1, positive_weight=5.0),
    MulticlassTask("clicked", "product", classes=3),
    MulticlassTask("bought", "product", label_space=("click", "purchase"), classes=2, first=1),
    RegressionTask("value", "value", label_space="purchase"),
    RegressionTask("value", "value", standardise=True, huber_delta=1.5),
    RegressionTask("gmv", "value", zero_without="purchase", sample_weight="inverse_rate"),
    LogRegressionTask("value", "value", standardise=True, smearing=1.2),
    ZeroInflatedLogNormalTask("gmv", "value", zero_without="purchase"),
    TweedieTask("gmv", "value"),
    OrdinalTask("stars", "stars", boundaries=[0.0, 1.0]),
    OrdinalTask("stars", "stars", boundaries=[0.5], values=[0, 1]),
    ChosenBinaryTask("buy", "purchase", chosen="product", products=2),
    BoughtProductTask("bought", "purchase", chosen="product", products=2),
    DelayedFeedbackTask("cvr", "purchase", label_space="click", elapsed="days"),
    InversePropensityTerm("cvr_ips", "purchase", click="click"),
    DoublyRobustTerm("cvr_dr", "purchase", click="click"),
    DoublyRobustTerm("cvr_dr", "purchase", click="click", pseudo_labels=True),
    CounterfactualTerm("cvr_dcmt", "purchase", click="click"),
    MonotonicityTerm("order", "click", steps=3),
]


def test_every_kind_has_an_example():
    missing = set(every_subclass(Task)) - {type(example) for example in EXAMPLES}
    assert not missing, f"add an example of {sorted(kind.__name__ for kind in missing)} to EXAMPLES"


@pytest.mark.parametrize("check", TASK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{type(example).__name__}-{example.name}")
def test_every_task(example, check):
    check(example)


@dataclass(frozen=True)
class HalfBlind(RegressionTask):
    """Breaks the contract: it asks for two outputs and reads one."""

    @property
    def outputs(self):
        return 2

    def loss(self, output, label):
        return super().loss(output[:, 0], label)

    def predict(self, output):
        return super().predict(output[:, 0])


@dataclass(frozen=True)
class Rough(BinaryTask):
    """Breaks the contract: a sigmoid whose logarithm is taken afterwards, and no float32."""

    def loss(self, output, label):
        p = output.sigmoid()
        return -(label * p.log() + (1 - label) * (1 - p).log())


def test_the_contract_sees_an_output_that_is_not_read():
    with pytest.raises(AssertionError, match="output 1 is not read"):
        assert_task_contract(HalfBlind("value", "value"))


@pytest.mark.parametrize("check", ["task_has_one_loss_a_row_in_float32", "task_bears_any_output"])
def test_the_contract_sees_a_loss_that_overflows(check):
    with pytest.raises(AssertionError):
        next(each for each in TASK_CHECKS if each.__name__ == check)(Rough("ctr", "click"))
