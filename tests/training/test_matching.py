"""A trunk that starts from one of other tasks gives the tasks that both have the same vectors."""

import pytest
import torch

from torchrec_mtl.heads import Tower
from torchrec_mtl.layout import Layout
from torchrec_mtl.mlp import LayerOptions
from torchrec_mtl.testing.modules import every_subclass
from torchrec_mtl.training.addresses import NetworkNames
from torchrec_mtl.training.matching import addresses, match
from torchrec_mtl.trunks import (
    AITM,
    CGC,
    DBMTL,
    PLE,
    STEM,
    AdaTT,
    CrossStitch,
    HTLNet,
    Listed,
    MMoE,
    MultiLevelMMoE,
    OMoE,
    PEPNet,
    Separate,
    SequentialTrunk,
    SharedBottom,
    Since,
    Trunk,
)

OPTIONS = LayerOptions(norm=torch.nn.BatchNorm1d, dropout=0.3)  # batch norm has buffers, and an entry without rows
MAKERS = {
    SharedBottom: lambda t: SharedBottom(6, t, layers=[5], options=OPTIONS),
    Separate: lambda t: Separate(6, t, layers=[5, 4], options=OPTIONS),
    OMoE: lambda t: OMoE(6, t, num_experts=3, layers=[5], options=OPTIONS),
    MMoE: lambda t: MMoE(6, t, num_experts=3, layers=[5], options=OPTIONS),
    MultiLevelMMoE: lambda t: MultiLevelMMoE(6, t, num_experts=3, levels=[[5], [4]], options=OPTIONS),
    PEPNet: lambda t: PEPNet(6, t, layers=[5, 4], gate_hidden=3, options=OPTIONS),
    STEM: lambda t: STEM(6, t, levels=[[5], [4]], shared_experts=2, task_experts=2, options=OPTIONS),
    CGC: lambda t: CGC(6, t, layers=[5], shared_experts=2, task_experts=2, options=OPTIONS),
    CrossStitch: lambda t: CrossStitch(6, t, layers=[5, 4], options=OPTIONS),
    AdaTT: lambda t: AdaTT(6, t, levels=[[5], [4]], task_experts=2, options=OPTIONS),
    PLE: lambda t: PLE(6, t, levels=[[5], [4]], shared_experts=2, task_experts=2, options=OPTIONS),
    AITM: lambda t: AITM(6, t, layers=[5], options=OPTIONS),
    DBMTL: lambda t: DBMTL(6, t, bottom_layers=[5], task_layers=[4], relation_layers=[4], options=OPTIONS),
    HTLNet: lambda t: HTLNet(6, t, layers=[5], label_features=4, options=OPTIONS),
}
ROWS = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))


def make(kind, towers, seed):
    torch.manual_seed(seed)
    trunk = MAKERS[kind](len(towers))
    for name, entry in trunk.state_dict().items():
        if entry.is_floating_point() and "running_var" not in name:
            entry.normal_()  # also what starts alike in all tasks
    torch.manual_seed(50)
    trunk.bind({name: Tower(trunk.out_features, hidden=[]) for name in towers})
    return trunk.eval()


def transferred(kind, before, after, new=(), new_towers=()):
    """Old and new trunk, the new one with what it can take of the old."""
    old, trunk = make(kind, before, 1), make(kind, after, 2)
    return old, trunk, moved(old, before, trunk, after, new, new_towers)


def moved(old, before, trunk, after, new=(), new_towers=()):
    """Copies what a trunk can take of another."""
    placed = []
    for each, towers in ((trunk, after), (old, before)):
        shapes = {f"model.trunk.{name}": entry.shape for name, entry in each.state_dict().items()}
        placed.append(addresses(shapes, NetworkNames(towers), trunk.task_parts()))
    found = match(*placed, new, new_towers)
    state, source = trunk.state_dict(), old.state_dict()
    for piece in found.pieces:
        if piece.source is not None:
            piece.copy(
                source[piece.source.removeprefix("model.trunk.")], state[piece.entry.removeprefix("model.trunk.")]
            )
    return found


def vectors(trunk, towers):
    with torch.no_grad():
        return dict(zip(towers, trunk(ROWS).expand(-1, len(towers), -1).unbind(1), strict=True))


def assert_same(kind, before, after, new_towers=()):
    old, trunk, _ = transferred(kind, before, after, new_towers=new_towers)
    was, now = vectors(old, before), vectors(trunk, after)
    for tower in {*before} & {*after} - {*new_towers}:
        torch.testing.assert_close(now[tower], was[tower])


INDEPENDENT = [
    SharedBottom,
    Separate,
    OMoE,
    MMoE,
    MultiLevelMMoE,
    PEPNet,
    CGC,
]  # a task's vector depends on its own and shared parameters
CROSSED = [CrossStitch, AdaTT, PLE, STEM]  # and on those of the other tasks


@pytest.mark.parametrize("kind", [*INDEPENDENT, *CROSSED])
def test_tasks_in_another_order_keep_their_vectors(kind):
    assert_same(kind, ["a", "b", "c"], ["c", "a", "b"])


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_tasks_that_come_and_go_leave_the_others_as_they_were(kind):
    assert_same(kind, ["a", "b", "c"], ["d", "c", "a"], new_towers=["d"])
    _, _, found = transferred(kind, ["a", "b", "c"], ["d", "c", "a"], new_towers=["d"])
    assert not any(piece.crosses for piece in found.pieces)


@pytest.mark.parametrize("kind", [AITM, DBMTL, HTLNet])
@pytest.mark.parametrize("after", [["a", "b", "c"], ["a", "b"], ["a", "b", "c", "d"]])
def test_steps_of_a_funnel_are_added_and_dropped_at_its_end(kind, after):
    assert_same(kind, ["a", "b", "c"], after, new_towers=["d"] if "d" in after else [])


@pytest.mark.parametrize("kind", [AITM, DBMTL, HTLNet])
@pytest.mark.parametrize(("before", "after"), [(["a"], ["a", "b"]), (["a", "b", "c"], ["a"]), (["a", "b"], ["a"])])
def test_a_funnel_begins_and_ends_with_one_step(kind, before, after):
    assert_same(kind, before, after, new_towers=after[1:])


def test_what_needs_a_second_task_belongs_to_it():
    assert Since(1).place(["query"], [3], ["a", "b"]) == ("query", "b", {})
    with pytest.raises(ValueError, match=r"'query' needs 2 tasks, but found \['a'\]"):
        Since(1).place(["query"], [3], ["a"])
    with pytest.raises(ValueError, match=r"does not begin with a place in a list"):
        Listed().place(["query"], [3], ["a"])
    with pytest.raises(ValueError, match=r"'2.weight' is of no task: \['a', 'b'\] have 1 entries each"):
        Listed().place(["2", "weight"], [3], ["a", "b"])


@pytest.mark.parametrize(
    "make_one",
    [
        lambda depth: MultiLevelMMoE(6, 2, levels=[[4]] * depth, num_experts=2),  # as many gates as tasks at each level
        lambda depth: PLE(6, 2, levels=[[4]] * depth),
        lambda depth: SharedBottom(6, 2, layers=[4] * depth),
        lambda depth: Separate(6, 2, layers=[4] * depth),
    ],
    ids=["MultiLevelMMoE", "PLE", "SharedBottom", "Separate"],
)
def test_a_trunk_is_not_taken_in_part(make_one):
    towers = ["a", "b"]
    with pytest.raises(
        ValueError, match=r"more of \['trunk'\] than this job has: \['trunk\..* Build them as there, or"
    ):
        moved(make_one(3), towers, make_one(2), towers)
    moved(make_one(3), towers, make_one(2), towers, new=["trunk"])


@pytest.mark.parametrize(
    ("before", "after"), [("ab", "adb"), ("abd", "ba"), ("ab", "ba")], ids=["added", "dropped", "reordered"]
)
def test_weights_of_a_trunk_with_copies_meet_the_same_columns(before, after):
    """Gates that close the experts of other tasks: then a kept task's vector depends on its own and shared ones."""
    columns = {name: torch.randn(7, 2) for name in ("dense", "brand", "shop", "shop:a", "shop:b", "shop:d")}
    trunks, inputs = [], []
    for towers in (before, after):
        names = ["dense", "brand", "shop", *(f"shop:{tower}" for tower in towers)]
        places = {name: (2 * i, 2 * i + 1) for i, name in enumerate(names)}
        torch.manual_seed(len(trunks))
        trunk = STEM(2 * len(names), len(towers), levels=[[5]], task_experts=2, shared_experts=1)
        trunk.arrange(Layout(places, own={tower: {"shop": f"shop:{tower}"} for tower in towers}))
        trunks.append(trunk.eval())
        inputs.append(torch.cat([columns[name] for name in names], dim=1))
    moved(trunks[0], list(before), trunks[1], list(after), new_towers=["d"])
    vectors = []
    for trunk, towers, rows in zip(trunks, (before, after), inputs, strict=True):
        bias = trunk.state_dict()["levels.0.gates.scores.bias"]
        bias[..., [expert for t, tower in enumerate(towers) if tower == "d" for expert in (2 * t, 2 * t + 1)]] = -1e9
        with torch.no_grad():
            vectors.append(dict(zip(towers, trunk(rows).unbind(1), strict=True)))
    for tower in "ab":
        torch.testing.assert_close(vectors[1][tower], vectors[0][tower])
    assert not torch.allclose(vectors[0]["a"], vectors[0]["b"])


def test_a_name_stands_for_one_entry():
    shapes = {f"model.embeddings.embedding_bags.{name}.weight": (3, 2) for name in ("store", "shop")}
    names = NetworkNames(["a"])
    there = addresses(shapes, names, {}, {"tables.store": "tables.shop"})
    here = addresses(dict([[*shapes.items()][1]]), names, {})
    with pytest.raises(ValueError, match=r"holds \['tables.shop'\] more than once, by the names of this job"):
        match(here, there, [], [])


@pytest.mark.parametrize("kind", CROSSED)
def test_what_tasks_learnt_of_each_other_follows_them(kind):
    _, _, found = transferred(kind, ["a", "b", "c"], ["d", "c", "a"], new_towers=["d"])
    taken = {piece.entry.rpartition("trunk.")[2]: piece for piece in found.pieces}
    stitch = {
        CrossStitch: "stitches.0",
        AdaTT: "levels.0.gates.scores.weight",
        PLE: "levels.0.shared_gate.scores.weight",
        STEM: "levels.0.gates.scores.weight",
    }
    piece = taken[stitch[kind]]
    assert piece.crosses
    _, _, same = transferred(kind, ["a", "b", "c"], ["c", "a", "b"])
    assert not any(each.crosses for each in same.pieces), "the same tasks in another order"
    rows = {CrossStitch: [1, 2], AdaTT: [2, 3, 4, 5]}.get(kind, [2, 3, 4, 5, 6, 7])  # of m = 2, the shared ones last
    its = {CrossStitch: [2, 0], AdaTT: [4, 5, 0, 1]}.get(kind, [4, 5, 0, 1, 6, 7])
    assert piece.rows[max(piece.rows)] == (rows, its)
    assert 0 < piece.loaded < torch.Size(piece.shape).numel()


def test_every_trunk_says_which_parameters_are_whose():
    found = [kind for kind in every_subclass(Trunk) if kind.__module__.startswith("torchrec_mtl.")]
    assert set(MAKERS) == set(found)
    for kind, make_one in MAKERS.items():  # the contract's tests look at what each says
        assert make_one(3).task_parts() is not None, kind


def test_a_funnel_in_another_order_is_refused():
    trunk = AITM(4, 3, layers=[3])
    with pytest.raises(ValueError, match=r"AITM passes information .* are \['a', 'b'\], this job's \['b', 'a', 'c'\]"):
        trunk.check_start(["a", "b"], ["b", "a", "c"])
    assert isinstance(trunk, SequentialTrunk)


@pytest.mark.parametrize("kind", [AITM, DBMTL, HTLNet])
@pytest.mark.parametrize("after", ["abc", "acb"])
def test_no_kept_step_of_a_funnel_stands_after_a_new_one(kind, after):
    """Or it would read what it has not learnt with; nor may it stand where another step stood."""
    with pytest.raises(
        ValueError, match=r"towers are \['a', 'b', 'c'\], this job's .*, of which \['b'\] start anew. Keep the order"
    ):
        MAKERS[kind](3).check_start("abc", list(after), ["b"])
    MAKERS[kind](3).check_start("abc", "abc", ["b", "c"])
    MAKERS[kind](3).check_start("abc", "ax", ["x"])
    MAKERS[kind](3).check_start("ab", "abx", ["x"])


def test_what_is_missing_or_has_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"does not hold \['trunk.levels.0.gates.scores.weight of d'.*at random"):
        transferred(MMoE, ["a", "b"], ["a", "d"])
    with pytest.raises(
        ValueError, match=r"does not hold \['trunk.networks.layers.0.weight of d'.* and \d+ more, which would"
    ):
        transferred(Separate, ["a", "b"], ["a", "d"])
    here = addresses({"model.trunk.bottom.0.weight": (5, 7)}, NetworkNames(["a"]), {})
    there = addresses({"model.trunk.bottom.0.weight": (5, 6)}, NetworkNames(["a"]), {})
    with pytest.raises(ValueError, match=r"holds other shapes: \['trunk.bottom.0.weight: \[5, 6\], here \[5, 7\]'\]"):
        match(here, there, [], [])


def test_a_part_that_is_new_is_left_alone():
    _, trunk, found = transferred(SharedBottom, ["a"], ["a"], new=["trunk"])
    assert all(piece.source is None for piece in found.pieces)
    assert set(found.left) == {"trunk"}
    assert all(
        torch.equal(entry, make(SharedBottom, ["a"], 2).state_dict()[n]) for n, entry in trunk.state_dict().items()
    )
