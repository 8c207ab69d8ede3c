"""Pipelines that start from others: kept tasks stay as they were, or the start is refused, or a note says so."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.training.starting import build, make_objective, started, train
from torchrec_mtl.heads import Tower
from torchrec_mtl.mlp import LayerOptions
from torchrec_mtl.training import checkpoint
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.position import Position
from torchrec_mtl.trunks import AITM, DBMTL, HTLNet, MultiLevelMMoE, PEPNet, Separate
from torchrec_mtl.trunks.annealing import Annealing

pytestmark = pytest.mark.usefixtures("same_numbers")


def trunk(kind, **arguments):
    return lambda width, towers: kind(width, towers, **(arguments or {"layers": [8]}))


FUNNELS = {
    "AITM": trunk(AITM),
    "DBMTL": trunk(DBMTL, bottom_layers=[8], task_layers=[8], relation_layers=[8]),
    "HTLNet": trunk(HTLNet),
}


@pytest.mark.parametrize("kind", FUNNELS)
def test_a_new_step_amid_kept_ones_is_refused(tmp_path, kind):
    pair = [make_objective("abc", FUNNELS[kind]) for _ in range(2)]
    with pytest.raises(ValueError, match=rf"{kind} passes information from tower to tower.*of which \['b'\] start ane"):
        started(tmp_path, *pair, new=["towers.b"], frozen=["tables", "trunk", "towers.a", "towers.c"])


def tower(norm):
    return lambda reads: Tower(reads, hidden=[4], options=LayerOptions(norm=norm))


def test_a_kept_tower_is_taken_whole(tmp_path):
    """Batch norm has all that layer norm has, and more."""
    names, was, now = ["a", "b"], tower(nn.BatchNorm1d), tower(nn.LayerNorm)
    with pytest.raises(
        ValueError,
        match=r"holds more of \['towers.a', 'towers.b'\] than this job has: .*'towers.a.hidden.1.running_mean'.* Build",
    ):
        started(tmp_path, make_objective(names, tower=was), make_objective(names, tower=now))
    new = ["towers.a.hidden.1", "towers.b"]
    found = started(tmp_path, make_objective(names, tower=was), make_objective(names, tower=now), new=new)[-1]
    assert found.left["towers.a"] == 4 * 4 + 1, "scale, shift, mean, variance; and the number of batches"


def test_another_normalisation_of_the_same_shapes_is_noted(tmp_path):
    was, now = tower(nn.LayerNorm), tower(lambda width: nn.GroupNorm(2, width))
    found = started(tmp_path, make_objective(["a"], tower=was), make_objective(["a"], tower=now))[-1]
    (note,) = found.notes
    assert note.startswith("Part 'towers.a' was trained with ['LayerNorm((4,), eps=1e-05")
    assert "and has ['GroupNorm(2, 4, eps=1e-05" in note


COUNTING = LayerOptions(norm=partial(nn.BatchNorm1d, affine=False))  # no parameters, but statistics that move
WITH_NORM = {
    "AITM": trunk(AITM, layers=[8], options=COUNTING),
    "DBMTL": trunk(DBMTL, bottom_layers=[8], task_layers=[8], relation_layers=[8], options=COUNTING),
    "Separate": trunk(Separate, layers=[8], options=COUNTING),
}


@pytest.mark.parametrize("kind", WITH_NORM)
def test_frozen_kept_tasks_count_no_batch_while_a_new_one_trains(tmp_path, kind):
    pair = [
        make_objective(towers, WITH_NORM[kind], lambda reads: Tower(reads, hidden=[4], options=COUNTING))
        for towers in ("ab", "abc")
    ]
    frozen = ["tables", "trunk", "towers.a", "towers.b"]
    was, first, last, found = started(tmp_path, *pair, new=["towers.c"], frozen=frozen)
    assert found.notes == []
    for task in "ab":
        torch.testing.assert_close(first[task], was[task])  # computed beside a third, they may round otherwise
        torch.testing.assert_close(last[task], first[task], rtol=0, atol=0)
    assert not torch.equal(last["c"], first["c"])


def test_a_frozen_tower_that_reads_what_a_live_one_predicts_is_noted(tmp_path):
    def pair():
        return [make_objective("abc", FUNNELS["HTLNet"]) for _ in range(2)]

    _, first, last, found = started(tmp_path, *pair(), frozen=["tables", "trunk", "towers.a", "towers.c"])
    assert not torch.equal(last["c"], first["c"])
    assert found.notes == [
        "In HTLNet a task's vector depends on what the towers before its own predict: outputs of the frozen towers "
        "['c'] move while ['b'] train. Freeze these, too, if they are to stay."
    ]
    _, first, last, found = started(tmp_path, *pair(), frozen=["tables", "trunk", "towers.a", "towers.b"])
    assert found.notes == []
    assert all(torch.equal(last[task], first[task]) for task in "ab")


def test_the_temperature_of_frozen_steps_stays_while_a_new_one_trains(tmp_path):
    quick = trunk(HTLNet, layers=[8], annealing=Annealing(start=10.0, decay=0.5, every=1, floor=0.01))
    pair = [make_objective(towers, quick) for towers in ("ab", "abc")]
    frozen = ["tables", "trunk", "towers.a", "towers.b"]
    _, first, last, _ = started(tmp_path, *pair, new=["towers.c"], frozen=frozen)
    assert torch.equal(last["b"], first["b"])
    assert not torch.equal(last["c"], first["c"])


@pytest.mark.parametrize(
    ("depths", "new", "parts"),
    [((1, 2), ["trunk.levels.1"], r"\['levels.0.gates'\]"), ((2, 1), [], r"\['levels.1.gates', 'levels.0.gates'\]")],
)
def test_gates_of_tasks_are_not_taken_for_gates_of_experts(tmp_path, depths, new, parts):
    """With as many experts as tasks, the last level's gates have the shape of those of a middle level."""
    pair = [make_objective("ab", trunk(MultiLevelMMoE, levels=[[8]] * depth, num_experts=2)) for depth in depths]
    with pytest.raises(
        ValueError,
        match=rf"a trunk in which other parts belong to single tasks: {parts}, so its numbers",
    ):
        started(tmp_path, *pair, new=new)


def test_the_first_levels_of_a_trunk_stay_where_a_level_is_added(tmp_path):
    def pair():
        return [make_objective("ab", trunk(PEPNet, layers=[8] * depth)) for depth in (1, 2)]

    found = started(tmp_path, *pair(), new=["trunk.layers.1", "trunk.gates.1"])[-1]
    assert found.parts["trunk"]["loaded"] > 0
    assert found.parts["trunk"]["new"] > 0


def test_other_arguments_of_a_loaded_trunk_are_noted(tmp_path):
    def pair():
        return [make_objective("ab", trunk(PEPNet, layers=[8], prior=[name])) for name in ("shop", "recent_shops")]

    found = started(tmp_path, *pair(), frozen=["tables", "trunk"])[-1]
    assert found.notes == ["The trunk was trained with other arguments: prior: shop, now recent_shops."]
    assert started(tmp_path, *pair(), new=["trunk"])[-1].notes == []


@pytest.mark.parametrize(
    ("was", "now", "text"),
    [
        ((PEPNet, {"domain": ["shop", "dense"]}), (PEPNet, {"domain": ["shop"]}), "domain: dense, shop, now shop"),
        ((PEPNet, {"prior": ["shop"]}), (PEPNet, {}), "prior: shop, now all"),
        ((HTLNet, {}), (HTLNet, {"annealing": Annealing(start=5.0)}), r"annealing: .*start=10.0.*, now .*start=5.0"),
    ],
)
def test_a_checkpoint_is_used_with_the_arguments_of_its_trunk(tmp_path, was, now, text):
    was, now = (trunk(kind, layers=[8], **arguments) for kind, arguments in (was, now))
    with distributed() as runtime:
        old, position = train(build(make_objective("ab", was)), steps=1), Position(step=1)
        checkpoint.save(tmp_path, old, position, runtime, keep=1)
        path = checkpoint.find(tmp_path)
        checkpoint.load_model(path, build(make_objective("ab", was)), position)
        checkpoint.resume(path, build(make_objective("ab", was)), position, runtime)
        text = f"was trained with other arguments of the trunk: {text}.* Give those that it was trained with, or train"
        with pytest.raises(ValueError, match=text):
            checkpoint.load_model(path, build(make_objective("ab", now)), position)
        with pytest.raises(ValueError, match=text):
            checkpoint.resume(path, build(make_objective("ab", now)), position, runtime)
