"""The joint probabilities of click and purchase against float64, and as a likelihood."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_mtl.heads import ClickThenBuy
from torchrec_mtl.tasks import BoughtProductTask

LOGIT = st.floats(-2000, 2000, width=32)


def link_of(always_clicked=False):
    return ClickThenBuy("bought", of=("click", "buy"), always_clicked=always_clicked)


def joint(z, v, always_clicked=False):
    return link_of(always_clicked)({"click": z, "buy": v})


def shares(z):
    """A softmax in float64, in another form: 1 / Σ_j exp(z_j − z_k)."""
    z = z.double()
    return 1 / (z.unsqueeze(1) - z.unsqueeze(2)).exp().sum(2)


def written_out(z, v, always_clicked):
    """Probabilities ``[B, K + 1]`` in float64, product by product."""
    pi, s = shares(z), 1 / (1 + (-v.double()).exp())
    if always_clicked:
        pi = torch.cat([torch.zeros(len(pi), 1), pi], dim=1)
    bought = [pi[:, k + 1] * s[:, k] for k in range(v.shape[1])]
    left = sum(pi[:, k + 1] * (1 - s[:, k]) for k in range(v.shape[1]))
    return torch.stack([pi[:, 0] + left, *bought], dim=1)


def moderate(products, always_clicked, rows=30):
    generator = torch.Generator().manual_seed(products)
    columns = products + (not always_clicked)
    return [torch.randn(rows, width, generator=generator) * 2 for width in (columns, products)]


# two or three products, with or without a column for no click
LOGITS = st.tuples(st.integers(2, 4), st.booleans(), st.integers(1, 5)).flatmap(
    lambda form: st.tuples(
        st.just(form[1]),
        *(
            st.lists(st.lists(LOGIT, min_size=width, max_size=width), min_size=form[2], max_size=form[2])
            for width in (form[0] + (not form[1]), form[0])
        ),
    )
)


def test_two_products_by_hand():
    # π = (1/4, 1/4, 1/2), s = (1/2, 3/4): buying is 1/8 and 3/8, nothing is 1/4 + 1/8 + 1/8 = 1/2
    z = torch.tensor([[0.0, 0.0, math.log(2)]])
    v = torch.tensor([[0.0, math.log(3)]])
    assert joint(z, v)[0].exp().tolist() == pytest.approx([1 / 2, 1 / 8, 3 / 8], rel=1e-6)


def test_two_products_one_of_which_is_always_clicked_by_hand():
    # π = (1/3, 2/3), s = (1/2, 3/4): buying is 1/6 and 1/2, nothing is the third that remains
    z, v = torch.tensor([[0.0, math.log(2)]]), torch.tensor([[0.0, math.log(3)]])
    assert joint(z, v, always_clicked=True)[0].exp().tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 2], rel=1e-6)


@pytest.mark.parametrize("always_clicked", [False, True])
@pytest.mark.parametrize("products", [2, 5])
def test_the_probabilities_written_out(products, always_clicked):
    z, v = moderate(products, always_clicked)
    found = joint(z, v, always_clicked)
    torch.testing.assert_close(found.double(), written_out(z, v, always_clicked).log(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=60)
@given(LOGITS)
def test_they_sum_to_1_and_nothing_is_bought_that_is_not_clicked(dtype, form):
    always_clicked, *logits = form
    z, v = (torch.tensor(part).to(dtype) for part in logits)
    found = joint(z, v, always_clicked)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    p = found.double().exp()
    torch.testing.assert_close(p.sum(1), torch.ones(len(p)).double(), atol=1e-5, rtol=0)
    clicked = shares(z)[:, -v.shape[1] :]
    assert (p[:, 1:] <= clicked + 1e-6).all()
    # over {(k, b)} ∪ {0}: a click without a purchase is what the click has and the purchase has not
    left = (clicked - p[:, 1:]).sum(1)
    no_click = 0 if always_clicked else shares(z)[:, 0]
    torch.testing.assert_close(p[:, 0], left + no_click, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=60)
@given(LOGITS, st.integers(0, 4))
def test_no_logit_breaks_the_likelihood(dtype, form, product):
    always_clicked, *logits = form
    z, v = (torch.tensor(part).to(dtype).requires_grad_() for part in logits)
    products = v.shape[1]
    task = BoughtProductTask("bought", "purchase", chosen="product", products=products)
    product = min(product, products)
    target = torch.tensor([[float(product > 0), float(product)]]).expand(len(z), 2)
    loss = task.loss(joint(z, v, always_clicked), target)
    assert loss.isfinite().all()
    for gradient in torch.autograd.grad(loss.sum(), [z, v]):
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 1 + 1e-3  # a logit of a thousand is rounded by 6e-5, and its gradient with it


@pytest.mark.parametrize("always_clicked", [False, True])
@pytest.mark.parametrize("product", [0, 1, 3])
def test_the_entire_space_likelihood_and_its_gradient_written_out(product, always_clicked):
    r"""By hand. Product k bought: dL/dz = π − 1_k and dL/dv_k = −(1 − s_k), no other product.

    Nothing bought, with r the share of each way to it (no click, or left after a click) in P_0: dL/dz = π − r and
    dL/dv_k = r_k s_k.
    """
    z, v = (part.requires_grad_() for part in moderate(3, always_clicked))
    task = BoughtProductTask("bought", "purchase", chosen="product", products=3)
    target = torch.tensor([[float(product > 0), float(product)]]).expand(len(z), 2)
    loss = task.loss(joint(z, v, always_clicked), target)
    p = written_out(z.detach(), v.detach(), always_clicked)
    torch.testing.assert_close(loss.double(), -p[:, product].log(), atol=1e-6, rtol=1e-5)
    loss.sum().backward()
    pi, s = shares(z.detach()), 1 / (1 + (-v.detach().double()).exp())
    if product:
        at_z, at_v = torch.zeros_like(pi), torch.zeros_like(s)
        at_z[:, product - always_clicked] = 1
        at_v[:, product - 1] = -(1 - s[:, product - 1])
    else:
        at_z = pi.clone()
        at_z[:, -3:] *= 1 - s
        at_z /= p[:, :1]
        at_v = at_z[:, -3:] * s
    torch.testing.assert_close(z.grad.double(), pi - at_z, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(v.grad.double(), at_v, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("z", "v", "always_clicked", "expected"),
    [
        ((2, 3), (2, 3), False, "reads [B, K + 1] (column 0: no click) and [B, K], but 'click' has shape [2, 3]"),
        ((2, 4), (2, 3), True, "reads [B, K] and [B, K], but 'click' has shape [2, 4] and 'buy' [2, 3]"),
        ((2, 2), (2,), False, "and 'buy' [2]"),
        ((2,), (2, 3), True, "but 'click' has shape [2] and"),
    ],
)
def test_numbers_of_columns_must_fit(z, v, always_clicked, expected):
    text = f"ClickThenBuy 'bought' with always_clicked={always_clicked} reads "
    with pytest.raises(ValueError, match=re.escape(text)) as error:
        joint(torch.zeros(z), torch.zeros(v), always_clicked)
    assert expected in str(error.value)
    assert "Correct the towers' outputs, or always_clicked." in str(error.value)


@pytest.mark.parametrize("of", [("click",), ("click", "buy", "value")])
def test_it_reads_click_and_buy(of):
    with pytest.raises(
        ValueError, match=r"ClickThenBuy 'bought': 'of' must name two outputs \(click, buy\), but found"
    ):
        ClickThenBuy("bought", of=of)
