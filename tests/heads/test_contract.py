"""Every head and every link, present and future, by discovery."""

import pytest
import torch

from torchrec_mtl.heads import AlternativePaths, ClickThenBuy, ExpectedValue, Head, Link, ProbabilityProduct, Tower
from torchrec_mtl.testing.heads import HEAD_CHECKS, head_maker
from torchrec_mtl.testing.links import LINK_CHECKS, TWO_LOGITS, assert_link_contract
from torchrec_mtl.testing.modules import every_subclass

HEADS, LINKS = every_subclass(Head), every_subclass(Link)
WIDTHS = {AlternativePaths: (1, 1, 1), ExpectedValue: (1, 1, 1), ClickThenBuy: (4, 3)}  # others read two logits


def test_discovery_finds_heads_and_links():
    assert Tower in HEADS
    assert ProbabilityProduct in LINKS


@pytest.mark.parametrize("check", HEAD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("head_class", HEADS)
def test_every_head(head_class, check):
    check(head_maker(head_class))


@pytest.mark.parametrize("check", LINK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("link_class", LINKS)
def test_every_link(link_class, check):
    check(link_class, WIDTHS.get(link_class, TWO_LOGITS))


def test_links_in_their_other_forms():
    assert_link_contract(ProbabilityProduct, widths=(1, 1, 1, 1))
    assert_link_contract(ExpectedValue)
    assert_link_contract(ClickThenBuy, widths=(3, 3), always_clicked=True)


@pytest.mark.parametrize("abstract", [Head, Link])
def test_contracts_are_abstract(abstract):
    with pytest.raises(TypeError, match="abstract"):
        abstract("name", ["of"])


class Deaf(Link):
    """Breaks the contract: it names two outputs and reads one."""

    def forward(self, outputs):
        return outputs[self.of[0]].float()


def test_the_contract_sees_a_link_that_does_not_read_what_it_names():
    check = next(check for check in LINK_CHECKS if "nothing_else" in check.__name__)
    with pytest.raises(AssertionError, match="names 'second', but does not read it"):
        check(Deaf, TWO_LOGITS)


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="must name other outputs"):
        Deaf("", of=["first"])


def test_a_link_is_no_parameter_of_the_model():
    assert not list(ProbabilityProduct("p", of=("a", "b")).parameters())
    assert isinstance(ProbabilityProduct("p", of=("a", "b")), torch.nn.Module)
