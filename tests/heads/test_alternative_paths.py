"""Merging paths against probabilities in float64, in the tails, and as the graph of ESM²."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.heads import AlternativePaths, Head, ProbabilityProduct, TaskHeads
from torchrec_mtl.tasks import BinaryTask

LOGIT = st.floats(-2000, 2000, width=32)
TASK = BinaryTask("cvr", "label")
LINK = AlternativePaths("cvr", of=("which", "if_so", "if_not"))


def merged(a, b, c):
    return LINK({"which": a, "if_so": b, "if_not": c})


def sigmoid(logits):
    return 1 / (1 + (-logits.double()).exp())


def moderate(rows, outputs=3, scale=3):
    return torch.randn(outputs, rows, generator=torch.Generator().manual_seed(rows)) * scale


def test_a_quarter_by_hand():
    # σ(log 3) = 3/4: 3/4 · 1/5 + 1/4 · 2/5 = 1/4, whose logit is −log 3; σ(−log 4) = 1/5, σ(log 2/3) = 2/5
    a, b, c = (torch.tensor([math.log(x)]) for x in (3, 1 / 4, 2 / 3))
    assert merged(a, b, c).item() == pytest.approx(-math.log(3), rel=1e-6)


def test_the_output_is_the_logit_of_the_mixture():
    logits = moderate(60)
    s, b, c = sigmoid(logits)
    p, not_p = s * b + (1 - s) * c, s * (1 - b) + (1 - s) * (1 - c)
    torch.testing.assert_close(merged(*logits).double(), p.log() - not_p.log(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("z", [0.0, 1.0])
def test_the_gradient_equals_the_derivative_written_out(z):
    """By hand: dBCE/dp = (p − z) / (p (1 − p)) times dp/da = s (1 − s)(b − c), s b (1 − b), (1 − s) c (1 − c)."""
    logits = moderate(40).requires_grad_()
    loss = TASK.loss(merged(*logits), torch.full((40,), z))
    loss.sum().backward()
    s, b, c = sigmoid(logits.detach())
    p = s * b + (1 - s) * c
    torch.testing.assert_close(loss.double(), -(p.log() if z else (1 - p).log()), atol=1e-6, rtol=1e-5)
    outer = (p - z) / (p * (1 - p))
    expected = outer * torch.stack([s * (1 - s) * (b - c), s * b * (1 - b), (1 - s) * c * (1 - c)])
    torch.testing.assert_close(logits.grad.double(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        (2000.0, -7.0, 7.0, -7.0),  # the first path for sure
        (-2000.0, -7.0, 7.0, 7.0),
        (0.0, 60.0, 60.0, 60.0),  # either way the same: a float32 probability would be 1
        (3.0, -60.0, -60.0, -60.0),
        (0.0, 2000.0, -2000.0, 0.0),  # a coin decides
        (0.0, -100.0, -2000.0, -100 - math.log(2)),  # half of e⁻¹⁰⁰
    ],
)
def test_the_tails(a, b, c, expected):
    found = merged(*(torch.tensor([value]) for value in (a, b, c)))
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(LOGIT, LOGIT, LOGIT), min_size=1, max_size=8), z=st.sampled_from([0.0, 1.0]))
def test_no_logit_breaks_it(dtype, rows, z):
    a, b, c = logits = [column.to(dtype).requires_grad_() for column in torch.tensor(rows).T]
    found = merged(*logits)
    assert found.dtype == torch.float32
    low, high = torch.minimum(b, c).float(), torch.maximum(b, c).float()
    slack = 1e-5 * torch.maximum(low.abs(), high.abs()).clamp(min=1)
    assert ((low - slack <= found) & (found <= high + slack)).all(), "a mixture lies between its parts"
    torch.testing.assert_close(merged(-a, c, b), found, atol=1e-5, rtol=1e-5)  # the paths have no order
    torch.testing.assert_close(merged(a, -b, -c), -found, atol=1e-5, rtol=1e-5)  # the complement
    loss = TASK.loss(found, torch.full((len(rows),), z))
    gradient = torch.stack(torch.autograd.grad(loss.sum(), logits))
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 1 + 1e-5


class Column(Head):
    """A tower that gives the first number it sees."""

    def forward(self, features):
        return features[:, 0]


ESM2 = TaskHeads(
    {name: Column() for name in ("ctr", "action", "buy_after_action", "buy_without")},
    links=[  # out of order on purpose
        ProbabilityProduct("ctcvr", of=("ctr", "cvr")),
        ProbabilityProduct("ctavr", of=("ctr", "action")),
        AlternativePaths("cvr", of=("action", "buy_after_action", "buy_without")),
    ],
)
ESM2_TASKS = [BinaryTask(name, name) for name in ("ctr", "ctavr", "ctcvr")]


def esm2_loss(logits, labels):
    """The three losses of ESM² by row and its gradient at the four towers, from logits ``[4, B]``."""
    towers = logits.detach().requires_grad_()
    outputs = ESM2(towers.T.unsqueeze(2))
    loss = sum(task.loss(outputs[task.name], label) for task, label in zip(ESM2_TASKS, labels, strict=True))
    return loss, *torch.autograd.grad(loss.sum(), towers), outputs


@pytest.mark.parametrize("labels", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1)])
def test_esm2_against_probabilities_in_float64(labels):
    logits = moderate(30, outputs=4, scale=2)
    columns = [torch.full((30,), float(label)) for label in labels]
    loss, gradient, outputs = esm2_loss(logits, columns)
    exact = logits.double().requires_grad_()
    y1, y2, y3, y4 = 1 / (1 + (-exact).exp())
    ctavr, cvr = y1 * y2, y2 * y3 + (1 - y2) * y4
    expected = sum(
        -(p.log() if label else (1 - p).log()) for p, label in zip((y1, ctavr, y1 * cvr), labels, strict=True)
    )
    torch.testing.assert_close(outputs["cvr"].sigmoid().double(), cvr.detach(), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(loss.double(), expected.detach(), atol=1e-5, rtol=1e-5)
    expected.sum().backward()
    torch.testing.assert_close(gradient.double(), exact.grad, atol=1e-5, rtol=1e-4)
    assert ESM2.sources("ctcvr") == {"ctr", "action", "buy_after_action", "buy_without"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(LOGIT, LOGIT, LOGIT, LOGIT), min_size=1, max_size=8),
    labels=st.sampled_from([(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1)]),
)
def test_no_logit_breaks_esm2(dtype, rows, labels):
    columns = [torch.full((len(rows),), float(label)) for label in labels]
    loss, gradient, outputs = esm2_loss(torch.tensor(rows).T.to(dtype), columns)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 3 * (1 + 1e-2)  # at most 1 of each loss; bfloat16 rounds at 4e-3
    for step in ("ctr", "cvr"):
        before = outputs[step].float()
        assert (outputs["ctcvr"] <= before + 1e-6 * before.abs().clamp(min=1)).all()


@pytest.mark.parametrize("of", [("which", "if_so"), ("which", "if_so", "if_not", "or_else")])
def test_there_are_two_paths(of):
    text = r"AlternativePaths 'cvr': 'of' must name three outputs \(which, if_so, if_not\), but found \['which', "
    with pytest.raises(ValueError, match=text):
        AlternativePaths("cvr", of=of)
