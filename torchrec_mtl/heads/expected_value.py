"""Money through the funnel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchrec_mtl.heads.link import Link
from torchrec_mtl.hints import did_you_mean

Predict = Callable[[Tensor], Tensor]


class ExpectedValue(Link):
    r"""The value that an impression should bring: :math:`E[v] = \prod_i \sigma(a_i) \cdot E[v \mid \text{end}]`.

    The last name of ``of`` is the value output. What it means, the task of that name knows: its ``predict`` gives
    :math:`E[v \mid \text{end}]` in the label's units, be it a mean, a log-normal or a class's centre.
    :class:`~torchrec_mtl.objective.MultiTaskObjective` hands it over by :meth:`bind`.

    The output is **no logit** but a value in the label's units, computed as :math:`\exp(\sum_i \log\sigma(a_i))` times
    that mean; finite for all finite logits, and of the mean's sign. It is read by a task that predicts its output as it
    is, over the whole space: ``RegressionTask("gmv", "value", zero_without="purchase")``, whose label is 0 where
    nothing was bought. With ``weight=0`` that task only measures: no gradient comes this way, and tasks of their own
    train the steps and the value. With a weight above 0 its gradient trains **all** of the link's towers:

    .. math::
        \partial E / \partial a_i = E \cdot \sigma(-a_i), \qquad
        \partial E / \partial o = \prod_i \sigma(a_i) \cdot \partial E[v \mid \text{end}] / \partial o

    Args:
        name: Name of the output, for instance ``"gmv"``.
        of: The steps in order, then the value: ``("ctr", "cvr", "value")``.

    Shapes:
        outputs: steps ``[B]`` logits, value ``[B]`` or ``[B, K]`` as its task reads it; returns ``[B]`` float32.

    Raises:
        ValueError: If fewer than two names are given or one twice; by :meth:`bind`, if no task predicts the value or
            the task of this output does not predict it as it is; on use, if it is not bound or the prediction is not
            ``[B]``.

    Example::

        heads = TaskHeads(
            {"ctr": Tower(32), "cvr": Tower(32), "value": Tower(32)},
            links=[ExpectedValue("gmv", of=("ctr", "cvr", "value"))],
        )
        tasks = [
            ...,
            RegressionTask("value", "value", label_space="purchase", shift=40.0, scale=25.0),
            RegressionTask("gmv", "value", zero_without="purchase", weight=0.0),  # measured, not trained
        ]
    """

    def __init__(self, name: str, of: Sequence[str]) -> None:
        super().__init__(name, of)
        if len(self.of) < 2:
            raise ValueError(
                f"ExpectedValue '{name}': 'of' must name at least one step and then the value, but found {list(of)}."
            )
        self.expected: Predict | None = None

    def bind(self, predict: Mapping[str, Predict]) -> None:
        """Takes the value task's prediction, and refuses a task of its own output that would not leave it as it is."""
        value = self.of[-1]
        if value not in predict:
            hint = did_you_mean(value, predict, otherwise="; add a value task of that name.")
            raise ValueError(
                f"ExpectedValue '{self.name}' multiplies by the prediction of '{value}', but no served task reads that "
                f"output. Found {list(predict)}{hint}"
            )
        self.expected = predict[value]
        if self.name in predict:
            self._refuse_another_unit(predict[self.name])

    @property
    def steps(self) -> tuple[str, ...]:
        """All that it reads, in order."""
        return self.of

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Maps the steps' logits and the value output to the expected value."""
        *steps, value = self.of
        if self.expected is None:
            raise ValueError(
                f"ExpectedValue '{self.name}' does not know yet how '{value}' is predicted. Build the "
                f"MultiTaskObjective(model, tasks) first, or call bind({{'{value}': task.predict}})."
            )
        expected = self.expected(outputs[value]).float()
        if expected.ndim != 1:
            raise ValueError(
                f"ExpectedValue '{self.name}': the prediction of '{value}' must be one value a row, [B], but has shape "
                f"{list(expected.shape)}."
            )
        log_p = torch.stack([logsigmoid(logit) for logit in self.logits(outputs, steps)]).sum(0)
        return log_p.exp() * expected

    def _refuse_another_unit(self, predict: Predict) -> None:
        probe = torch.tensor([0.0, 1.0, 1000.0], device="cpu")
        try:
            found = str(predict(probe).tolist())
        except (IndexError, RuntimeError, ValueError) as error:  # a task of several values a row, or one not fitted
            found = repr(error)
        if found != str(probe.tolist()):
            raise ValueError(
                f"Task '{self.name}' must predict its output as it is, for ExpectedValue '{self.name}' gives a value "
                f"in the label's units, but of {probe.tolist()} it makes {found}. Use RegressionTask with shift=0 and "
                f"scale=1."
            )
