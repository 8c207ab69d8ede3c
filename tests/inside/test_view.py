"""Load, entropy and similarity: by hand, over batches and ranks, without padding, for every trunk."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchrec_mtl.experts import Experts, Gates
from torchrec_mtl.inside import InsideView, ShowsVectors, ShowsWeights, Softmax, Wiring
from torchrec_mtl.testing.links import NAMES
from torchrec_mtl.testing.modules import NUM_TASKS, every_subclass, rows
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.testing.trunks import bound_trunk
from torchrec_mtl.trunks import (
    CGC,
    PLE,
    AdaTT,
    CrossStitch,
    HTLNet,
    MultiLevelMMoE,
    OMoE,
    PEPNet,
    Separate,
    SharedBottom,
    Trunk,
)

TRUNKS = every_subclass(Trunk)
TASKS = NAMES[:NUM_TASKS]


class GivenWeights(ShowsWeights):
    def forward(self, x):
        return x


class GivenVectors(ShowsVectors):
    def forward(self, x):
        return x


class Given(nn.Module):
    """Shows what it is given: weights [B, T, N] and vectors [B, N, H]."""

    def __init__(self):
        super().__init__()
        self.gates = GivenWeights()
        self.experts = GivenVectors()

    def forward(self, weights, vectors=None):
        mixed = self.gates(weights)
        return mixed if vectors is None else mixed @ self.experts(vectors)


def seen(module, *batches, tasks=TASKS, stride=1, rows=None):
    view = InsideView(module, tasks, stride)
    with view.watch(lambda: rows):
        for batch in batches:
            module(*batch) if isinstance(batch, tuple) else module(batch)
    return view.figures()


def test_load_and_entropy_by_hand():
    # two tasks, two experts; rows (1/2, 1/2) and (1/4, 3/4) for the first, (1, 0) twice for the second
    weights = torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [1.0, 0.0]]])
    (level,) = seen(Given(), weights[:1], weights[1:], tasks=("ctr", "cvr"))
    assert (level.readers, level.experts, level.rows) == (("ctr", "cvr"), ("source 0", "source 1"), 2)
    assert level.load.tolist() == [[0.375, 0.625], [1.0, 0.0]]
    of_a_quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))  # in bits, of which two experts have one
    assert level.entropy.tolist() == pytest.approx([(1 + of_a_quarter) / 2, 0.0], abs=1e-7)
    assert level.top.tolist() == [0.0, 1.0]
    assert level.use.tolist() == [2.0, 1.25]  # of an even share of 1/2
    assert level.similarity is None


def test_a_choice_is_a_row_with_more_than_95_percent_on_one_expert():
    weights = torch.tensor([[[0.96, 0.04]], [[0.94, 0.06]], [[0.03, 0.97]], [[0.5, 0.5]]])
    (level,) = seen(Given(), weights)
    assert level.readers == ("all tasks",)
    assert level.top.tolist() == [0.5]


def test_similarity_by_hand():
    # one number a row: the second expert is 2 * first + 7, the third its negative, the fourth rises and falls
    first = torch.tensor([1.0, 2.0, 3.0, 4.0])
    vectors = torch.stack([first, 2 * first + 7, -first, torch.tensor([1.0, 0.0, 0.0, 1.0])], dim=1).unsqueeze(2)
    (level,) = seen(Given(), (torch.full((4, 1, 4), 0.25), vectors))
    expected = [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(level.similarity, expected, atol=1e-6)


def test_similarity_is_the_correlation_of_centred_outputs():
    vectors = rows(50, 3 * 4).relu().unflatten(1, (3, 4)) + 1
    batches = [(torch.ones(len(part), 1, 3) / 3, part) for part in vectors.split([20, 30])]
    (level,) = seen(Given(), *batches)
    flat = (vectors - vectors.mean(0)).double().transpose(0, 1).flatten(1).numpy()  # [N, B * H]
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in flat] for a in flat]
    np.testing.assert_allclose(level.similarity, expected, atol=1e-5)


def test_an_expert_that_is_the_same_for_every_row_has_no_similarity():
    vectors = torch.cat([rows(9, 4).unsqueeze(1), torch.full((9, 1, 4), 0.3)], dim=1)
    (level,) = seen(Given(), (torch.full((9, 1, 2), 0.5), vectors))
    assert np.isnan(level.similarity).tolist() == [[False, True], [True, True]]


def similarity_of(trunk, *batches, stride):
    return seen(trunk, *batches, stride=stride)[0].similarity


def test_experts_are_read_on_one_row_in_so_many():
    trunk, x = OMoE(8, 2, num_experts=3, layers=[5]).eval(), rows(4096)
    small, middle, large = x[:900].split(100), x.split(1024), x
    for batches, stride, sample in (
        (small, 4, torch.cat([small[0], small[4], small[8]])),  # every fourth batch
        (middle, 4, torch.cat([middle[0][::2], middle[2][::2]])),  # every second row of every second batch
        ([large], 4, x[::4]),  # every fourth row
        (small, 1, x[:900]),
    ):
        np.testing.assert_allclose(
            similarity_of(trunk, *batches, stride=stride), similarity_of(trunk, sample, stride=1), atol=1e-5
        )


def test_gates_are_read_on_every_row():
    trunk = OMoE(8, 2, num_experts=3, layers=[5]).eval()
    (sampled,), (all_of_them,) = seen(trunk, *rows(40).split(10), stride=8), seen(trunk, rows(40))
    assert sampled.rows == 40
    np.testing.assert_allclose(sampled.load, all_of_them.load, atol=1e-6)
    np.testing.assert_allclose(sampled.entropy, all_of_them.entropy, atol=1e-6)


def test_padding_does_not_count():
    trunk = OMoE(8, 2, num_experts=3, layers=[5]).eval()
    padded = torch.cat([rows(10), 100 * torch.ones(6, 8)])
    (level,), (expected,) = seen(trunk, padded, rows=10), seen(trunk, rows(10))
    assert level.rows == 10
    np.testing.assert_allclose(level.load, expected.load, atol=1e-6)
    np.testing.assert_allclose(level.entropy, expected.entropy, atol=1e-6)
    np.testing.assert_allclose(level.similarity, expected.similarity, atol=1e-5)


def test_a_batch_of_padding_alone_changes_nothing():
    trunk = OMoE(8, 2, num_experts=3, layers=[5]).eval()
    counts = iter([10] * 2 + [0] * 2)  # asked once by the gates and once by the experts of each batch
    view = InsideView(trunk, stride=1)
    with view.watch(lambda: next(counts)):
        trunk(rows(10))
        trunk(torch.zeros(7, 8))
    (level,), (expected,) = view.figures(), seen(trunk, rows(10))
    assert np.array_equal(level.load, expected.load)
    assert np.array_equal(level.similarity, expected.similarity)


def test_no_rows_give_no_figures_rather_than_a_polarised_gate():
    (level,) = seen(OMoE(8, 2, layers=[5]).eval(), rows(4), rows=0)
    assert level.rows == 0
    assert np.isnan(level.entropy).all()
    assert np.isnan(level.use).all()
    assert level.similarity is None


def halves():
    torch.manual_seed(0)
    return PLE(8, 2, levels=[[6], [5]]).eval(), rows(64) * 3


def on_a_rank(uneven):
    dist.init_process_group("gloo")
    trunk, x = halves()
    view = InsideView(trunk, ("ctr", "cvr"), stride=1)
    with view.watch():
        if uneven:  # all rows on rank 0; rank 1 never calls the network
            [trunk(part) for part in (x.split(16) if dist.get_rank() == 0 else ())]
        else:
            trunk(x[32 * dist.get_rank() :][:32])
    found = view.figures()
    dist.destroy_process_group()
    return [(level.name, level.rows, level.load, level.entropy, level.top, level.similarity) for level in found]


@pytest.mark.parametrize("uneven", [False, True])
def test_two_ranks_see_what_one_process_sees(uneven):
    trunk, x = halves()
    expected = seen(trunk, x, tasks=("ctr", "cvr"))
    for found in run_on_ranks(on_a_rank, 2, uneven):
        assert [part[0] for part in found] == ["levels.0", "levels.1"]
        for level, (_, count, *figures) in zip(expected, found, strict=True):
            assert count == level.rows == 64
            for figure, alone in zip(figures, (level.load, level.entropy, level.top, level.similarity), strict=True):
                np.testing.assert_allclose(figure, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("trunk_class", TRUNKS)
def test_every_trunk_passes_through_the_view(trunk_class):
    trunk = bound_trunk(trunk_class).eval()
    before = trunk(rows())
    view = InsideView(trunk, TASKS)
    with view.watch():
        assert torch.equal(trunk(rows()), before), "watching must change nothing"
    levels = view.figures()
    shows = any(isinstance(part, Gates | Experts | Softmax) for part in trunk.modules())
    assert bool(levels) == shows
    for level in levels:
        assert level.load.shape == (len(level.readers), len(level.experts))
        assert len(set(level.experts)) == len(level.experts)
        mixed = level.entropy[np.isfinite(level.entropy)]
        assert ((mixed >= 0) & (mixed <= 1 + 1e-6)).all()
        if level.fixed is None and len(level.readers):
            np.testing.assert_allclose(np.nansum(level.load, axis=1), 1, atol=1e-5)
        level.as_json()


@pytest.mark.parametrize("trunk_class", TRUNKS)
def test_nothing_is_left_on_the_trunk(trunk_class):
    trunk = bound_trunk(trunk_class)
    view = InsideView(trunk, TASKS)
    with pytest.raises(RuntimeError, match="stop"), view.watch():
        raise RuntimeError("stop")
    assert not any(part._forward_hooks for part in trunk.modules())
    trunk(rows())
    assert view.figures() == [] or all(level.rows == 0 for level in view.figures())


def test_experts_of_a_task_are_named_by_it():
    trunk = PLE(8, 2, levels=[[6], [5]], shared_experts=1, task_experts=2).eval()
    first, last = seen(trunk, rows(), tasks=("engage", "purchase"))
    assert first.experts == ("engage 0", "engage 1", "purchase 0", "purchase 1", "shared")
    assert first.readers == ("engage", "purchase", "shared")
    assert last.readers == ("engage", "purchase")
    assert np.isfinite(first.load).tolist() == [
        [True, True, False, False, True],  # a task's gate reads its own experts and the shared one
        [False, False, True, True, True],
        [True] * 5,
    ]


def test_loads_and_vectors_of_a_task_stand_at_its_own_experts():
    trunk = CGC(8, 2, layers=[5], shared_experts=1, task_experts=1).eval()
    (level,) = seen(trunk, rows(), tasks=("engage", "purchase"))
    gates = trunk.levels[0].gates(rows()).mean(0).tolist()  # [T, own + shared]
    expected = [[gates[0][0], math.nan, gates[0][1]], [math.nan, gates[1][0], gates[1][1]]]
    np.testing.assert_allclose(level.load, expected, atol=1e-6)
    made = torch.cat([trunk.levels[0].own(rows()), trunk.levels[0].shared(rows())], dim=1)
    centred = (made - made.mean(0)).transpose(0, 1).flatten(1)
    like = nn.functional.cosine_similarity(centred[1], centred[2], dim=0)  # purchase's own and the shared one
    assert level.similarity[1, 2] == pytest.approx(like.item(), abs=1e-5)


def test_tasks_without_names_are_numbered():
    (level,) = seen(CGC(8, 2, layers=[5], shared_experts=1, task_experts=1).eval(), rows(), tasks=())
    assert level.readers == ("task 0", "task 1")
    assert level.experts == ("task 0", "task 1", "shared")


class Overwriting(Given):
    """Writes into the weights that it has shown."""

    def forward(self, weights, vectors=None):
        return super().forward(weights, vectors).mul_(0)


def test_figures_are_of_the_weights_as_they_were_shown():
    weights = torch.full((6000, 1, 2), 0.5)
    for batches in (weights[:6].split(2), [weights]):
        (level,) = seen(Overwriting(), *[batch.clone() for batch in batches])
        assert level.load.tolist() == [[0.5, 0.5]]


def test_figures_may_be_asked_between_batches():
    given = Given()
    view = InsideView(given)
    with view.watch():
        for count, batch in enumerate(torch.eye(2).view(2, 1, 1, 2), start=1):
            given(batch)
            assert view.figures()[0].rows == count
    assert view.figures()[0].load.tolist() == [[0.5, 0.5]]


def test_a_residual_is_part_of_the_load_and_not_of_the_entropy():
    trunk = AdaTT(8, 2, levels=[[5]]).eval()
    (level,) = seen(trunk, rows(), tasks=("engage", "purchase"))
    gates = trunk.levels[0].gates(rows())
    np.testing.assert_allclose(level.load, gates.mean(0).detach().numpy() + np.eye(2), atol=1e-6)
    entropy = -(gates * gates.log2()).sum(-1).mean(0)
    assert level.entropy.tolist() == pytest.approx(entropy.tolist(), abs=1e-6)


def test_a_stitch_is_a_load_that_no_row_moves():
    trunk = CrossStitch(8, 2, layers=[6, 5], own=0.75).eval()
    first, second = seen(trunk, rows(), tasks=("engage", "purchase"))
    assert (first.name, second.name) == ("networks.0", "networks.1")
    assert first.experts == first.readers == ("engage", "purchase")
    assert first.load.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert np.isnan(first.entropy).all()


def test_attention_is_a_gate():
    trunk = bound_trunk(HTLNet).eval()
    vectors, _ = seen(trunk, rows())  # of the second task one source, whose weight is 1: nothing to see
    assert (vectors.name, vectors.readers, vectors.experts) == ("fuse_vectors.1", ("third",), ("first", "second"))


def test_a_shared_bottom_shows_nothing():
    assert seen(SharedBottom(8, 2).eval(), rows()) == []


class Outside(Trunk):
    """A trunk from somewhere else, of two levels, that says nothing about itself."""

    def __init__(self, in_features, num_tasks):
        super().__init__(in_features, num_tasks, 5)
        self.experts = nn.ModuleList([Experts(4, in_features, [6]), Experts(3, 6, [5])])
        self.gates = nn.ModuleList([Gates(1, in_features, 4), Gates(num_tasks, 6, 3)])

    def forward(self, features):
        x = (self.gates[0](features) @ self.experts[0](features)).squeeze(1)
        return self.gates[1](x) @ self.experts[1](x)


def test_a_trunk_from_outside_is_seen():
    first, second = seen(Outside(8, 2).eval(), rows(), tasks=("ctr", "cvr"))
    assert (first.readers, first.load.shape, first.similarity.shape) == (("all tasks",), (1, 4), (4, 4))
    assert (second.readers, second.load.shape, second.similarity.shape) == (("ctr", "cvr"), (2, 3), (3, 3))
    assert second.experts == ("expert 0", "expert 1", "expert 2")


class Miswired(Outside):
    def wirings(self):
        return {"0": Wiring(experts=[0, 1])}


class Narrow(nn.Module):
    """A gate over fewer experts than there are."""

    def __init__(self):
        super().__init__()
        self.experts = Experts(4, 8, [6])
        self.gates = Gates(2, 8, 3)

    def forward(self, x):
        return self.gates(x) @ self.experts(x)[:, :3]


def test_a_wiring_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"'0'.* names 1 readers and 2 experts, but found .* over 4 experts. Correct"):
        seen(Miswired(8, 2).eval(), rows())
    with pytest.raises(ValueError, match=r"'trunk': the gates 'gates' .* shape \[2, 3\], but read \[2, 4\] of 4 exp"):
        seen(Narrow(), rows())


def test_bfloat16_is_summed_in_float32():
    trunk = OMoE(8, 2, num_experts=3, layers=[16]).eval()
    (exact,) = seen(trunk, rows(4096))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert trunk(rows()).dtype == torch.bfloat16
        (level,) = seen(trunk, rows(4096))
    np.testing.assert_allclose(level.load, exact.load, atol=2e-3)
    # a sum of 4,096 rows in 8 bits would stop growing at 256
    np.testing.assert_allclose(level.similarity, exact.similarity, atol=0.02)
    np.testing.assert_allclose(level.similarity.diagonal(), 1, atol=1e-6)


def test_watching_while_training_leaves_the_gradients_alone():
    trunk = OMoE(8, 2, layers=[5])
    trunk(rows()).sum().backward()
    expected = [parameter.grad.clone() for parameter in trunk.parameters()]
    trunk.zero_grad()
    view = InsideView(trunk)
    with view.watch():
        trunk(rows()).sum().backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(trunk.parameters(), expected, strict=True))
    assert view.figures()[0].rows == len(rows())
    view.reset()
    assert view.figures() == []


def test_a_stride_below_one_is_refused():
    with pytest.raises(ValueError, match="stride must be at least 1, but found 0"):
        InsideView(OMoE(8, 2), stride=0)


def test_gates_below_the_last_level_of_mmoe_serve_experts_and_no_tasks():
    trunk = MultiLevelMMoE(8, 3, levels=[[6], [5]], num_experts=3).eval()  # as many experts as tasks
    first, last = seen(trunk, rows())
    assert first.readers == ("expert 0 above", "expert 1 above", "expert 2 above")
    assert last.readers == TASKS


@pytest.mark.parametrize(("trunk_class", "levels"), [(Separate, 1), (PEPNet, 2)])
def test_networks_of_one_task_bear_its_name(trunk_class, levels):
    trunk = bound_trunk(trunk_class, layers=[6, 4]).eval()
    view = InsideView(trunk, ("a", "b", "c"))
    with view.watch():
        trunk(torch.randn(5, trunk.in_features))
    assert [level.experts for level in view.figures()] == [("a", "b", "c")] * levels
