"""Towers and links together: order, sources and errors."""

import re
from itertools import permutations

import pytest
import torch

from torchrec_mtl.heads import Head, Joined, ProbabilityProduct, TaskHeads, Tower


class Pick(Head):
    """A tower that gives the first number it sees: so it shows which vector it was handed."""

    def forward(self, features):
        return features[:, 0]


def heads():
    return TaskHeads(
        {"ctr": Pick(), "cart": Pick(), "cvr": Pick()},
        links=[
            ProbabilityProduct("ctcart", of=("ctr", "cart")),
            ProbabilityProduct("ctcvr", of=("ctcart", "cvr")),  # a link that reads a link
        ],
    )


def test_names_stand_in_order():
    assert heads().names == ("ctr", "cart", "cvr", "ctcart", "ctcvr")
    assert heads().tower_names == ("ctr", "cart", "cvr")
    assert tuple(heads()(torch.randn(2, 3, 4))) == heads().names


def test_the_ith_tower_reads_the_ith_vector():
    shared = torch.arange(24.0).view(2, 3, 4)  # row r, task t starts with 12r + 4t
    outputs = heads()(shared)
    assert outputs["ctr"].tolist() == [0, 12]
    assert outputs["cart"].tolist() == [4, 16]
    assert outputs["cvr"].tolist() == [8, 20]


def test_a_link_of_a_link_is_the_whole_chain():
    shared = torch.randn(6, 3, 4)
    outputs = heads()(shared)
    p = [1 / (1 + (-shared[:, t, 0].double()).exp()) for t in range(3)]
    torch.testing.assert_close(outputs["ctcart"].sigmoid().double(), p[0] * p[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(outputs["ctcvr"].sigmoid().double(), p[0] * p[1] * p[2], atol=1e-6, rtol=1e-5)


def test_an_offset_is_added_before_links_read_it():
    shared = torch.randn(6, 3, 4)
    offset = torch.linspace(0.5, 3, 6)
    made = heads()
    outputs = made(shared)
    moved = made.moved(outputs, {"cart": offset})
    assert tuple(moved) == made.names
    higher = shared.clone()
    higher[:, 1, 0] += offset  # what the tower "cart" gives
    for name, expected in made(higher).items():
        torch.testing.assert_close(moved[name], expected)
    assert not torch.equal(moved["ctcvr"], outputs["ctcvr"]), "the outputs that were given stay as they are"
    assert torch.equal(made.moved(outputs, {})["ctcvr"], outputs["ctcvr"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ctr", {"ctr"}), ("cvr", {"cvr"}), ("ctcart", {"ctr", "cart"}), ("ctcvr", {"ctr", "cart", "cvr"})],
)
def test_sources_are_towers(name, expected):
    assert heads().sources(name) == expected


def test_a_stopped_gradient_trains_no_tower():
    towers = {"ctr": Pick(), "cvr": Pick(), "other": Pick()}
    product = ProbabilityProduct("ctcvr", of=("ctr", "cvr"))
    made = TaskHeads(towers, [product, Joined("joined", of=("other", "ctcvr", "cvr"), detach=["other"])])
    assert made.trained("cvr") == {"cvr"}
    assert made.trained("ctcvr", stopped=()) == {"ctr", "cvr"}
    assert made.trained("joined") == {"ctr", "cvr"}
    assert made.trained("joined", stopped=(1,)) == {"cvr"}
    assert made.trained("joined", stopped=(2,)) == {"ctr", "cvr"}  # cvr through the product
    assert made.sources("joined") == {"ctr", "cvr", "other"}


def test_the_towers_of_a_product_are_trained_by_it():
    towers = {"ctr": Tower(4), "cvr": Tower(4), "other": Tower(4)}
    made = TaskHeads(towers, [ProbabilityProduct("ctcvr", of=("ctr", "cvr"))])
    made(torch.randn(8, 3, 4))["ctcvr"].sum().backward()
    for name in ("ctr", "cvr"):
        assert all(parameter.grad.count_nonzero() for parameter in towers[name].parameters()), name
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in towers["other"].parameters())


def test_an_output_may_be_called_like_a_method():
    made = TaskHeads({"keys": Tower(4), "forward": Tower(4), "a b": Tower(4)})
    assert set(made(torch.randn(2, 3, 4))) == {"keys", "forward", "a b"}


def test_a_name_with_a_dot_is_refused():
    """A part of the model is spoken of as towers.a.b: it would be taken for a part of tower a."""
    with pytest.raises(ValueError, match=r"Tower 'a.b': a name must not contain '.', which leads .* Call it 'a_b'"):
        TaskHeads({"a": Tower(4), "a.b": Tower(4)})
    with pytest.raises(ValueError, match=r"Link 'a.b': a name must not contain '.'"):
        TaskHeads({"a": Tower(4), "b": Tower(4)}, [ProbabilityProduct("a.b", of=("a", "b"))])


def test_a_tower_of_several_values_keeps_them():
    assert TaskHeads({"value": Tower(4, outputs=3)})(torch.randn(2, 1, 4))["value"].shape == (2, 3)


def test_links_may_be_given_in_any_order():
    links = [
        ProbabilityProduct("bought", of=("carted", "cvr")),
        ProbabilityProduct("carted", of=("ctr", "cart")),
        ProbabilityProduct("returned", of=("back", "bought")),
    ]
    shared = torch.randn(6, 4, 3)
    towers = dict.fromkeys(("ctr", "cart", "cvr", "back"))
    p = (1 / (1 + (-shared[:, :, 0].double()).exp())).cumprod(1)  # of the whole chain up to each tower
    for order in permutations(links):
        made = TaskHeads({name: Pick() for name in towers}, order)
        assert made.tower_names == tuple(towers)
        assert made.names == (*towers, "carted", "bought", "returned")
        outputs = made(shared)
        assert tuple(outputs) == made.names
        for place, name in enumerate(("carted", "bought", "returned"), start=1):
            torch.testing.assert_close(outputs[name].sigmoid().double(), p[:, place], atol=1e-6, rtol=1e-5)
            assert made.sources(name) == set(list(towers)[: place + 1])


def test_links_that_nothing_reads():
    assert heads().unread(["ctr", "ctcvr"]) == []  # "ctcart" is read by "ctcvr"
    assert heads().unread(["ctr", "ctcart"]) == ["ctcvr"]


@pytest.mark.parametrize(
    ("links", "text"),
    [
        (
            [ProbabilityProduct("ctcvr", of=("ctr", "cvrr"))],
            "Link 'ctcvr' reads 'cvrr', which no tower and no link makes. Found ['ctr', 'cvr']; did you mean 'cvr'?",
        ),
        (
            [ProbabilityProduct("ctcvr", of=("ctr", "purchase"))],
            "Link 'ctcvr' reads 'purchase', which no tower and no link makes. Found ['ctr', 'cvr'].",
        ),
        (  # one that is given later is known
            [ProbabilityProduct("end", of=("ctr", "middel")), ProbabilityProduct("middle", of=("ctr", "cvr"))],
            "Link 'end' reads 'middel', which no tower and no link makes. "
            "Found ['ctr', 'cvr', 'middle']; did you mean 'middle'?",
        ),
        (
            [ProbabilityProduct("ctr", of=("cvr", "ctcvr"))],
            "Link 'ctr': the name is taken. Outputs so far: ['ctr', 'cvr'].",
        ),
        (
            [ProbabilityProduct("ctcvr", of=("ctr", "cvr")), ProbabilityProduct("ctcvr", of=("ctr", "cvr"))],
            "Link 'ctcvr': the name is taken. Outputs so far: ['ctr', 'cvr', 'ctcvr'].",
        ),
    ],
)
def test_a_link_that_does_not_fit_is_refused(links, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        TaskHeads({"ctr": Tower(4), "cvr": Tower(4)}, links=links)


def test_a_circle_of_links_is_refused_and_named():
    links = [
        ProbabilityProduct("a", of=("ctr", "c")),
        ProbabilityProduct("b", of=("a", "cvr")),
        ProbabilityProduct("c", of=("b", "ctr")),
        ProbabilityProduct("outside", of=("ctr", "cvr")),
    ]
    turns = "|".join(f"'{x}' -> '{y}' -> '{z}' -> '{x}'" for x, y, z in ("abc", "bca", "cab"))
    text = rf"read each other in a circle: ({turns}) \(each is read by the next\)\. .* towers: \['ctr', 'cvr'\]"
    with pytest.raises(ValueError, match=text):
        TaskHeads({"ctr": Tower(4), "cvr": Tower(4)}, links=links)


def test_no_tower_is_refused():
    with pytest.raises(ValueError, match="at least one tower is needed, but found none"):
        TaskHeads({})


def test_one_vector_may_serve_all_towers():
    """The same outputs and gradients as with a copy for each."""
    torch.manual_seed(0)
    heads = TaskHeads({"a": Tower(4, hidden=[3]), "b": Tower(4)})
    found = []
    for copies in (1, 2):
        vector = torch.arange(12.0).reshape(3, 1, 4).requires_grad_()
        heads.zero_grad()
        outputs = heads(vector.expand(-1, copies, -1))
        (outputs["a"].sum() + outputs["b"].square().sum()).backward()
        found.append((outputs["a"], outputs["b"], vector.grad, [p.grad.clone() for p in heads.parameters()]))
    for once, copied in zip(*found, strict=True):
        torch.testing.assert_close(once, copied)
