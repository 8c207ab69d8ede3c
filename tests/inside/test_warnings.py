"""What is broken on purpose is named; what is sound is not."""

import pytest
import torch

from tests.inside.test_view import seen
from tests.trunks.banks import force
from torchrec_mtl.inside import Bounds, warnings_of
from torchrec_mtl.testing.modules import rows
from torchrec_mtl.trunks import PLE, AdaTT, CrossStitch, OMoE

TASKS = ("engage", "purchase")
BOUNDS = Bounds()


def ple():
    torch.manual_seed(0)
    return PLE(8, 2, levels=[[6], [16]], shared_experts=2, task_experts=1).eval()


def found(trunk, bounds=BOUNDS):
    return warnings_of(seen(trunk, rows(256), tasks=TASKS), bounds)


def test_sound_trunks_get_no_warning():
    torch.manual_seed(0)
    for trunk in (ple(), OMoE(8, 2, layers=[16]).eval(), AdaTT(8, 2).eval(), CrossStitch(8, 2).eval()):
        assert found(trunk) == []


def test_a_dead_expert_is_named():
    trunk = ple()
    with torch.no_grad():
        trunk.levels[1].gates.scores.bias[0, 0] = -50  # engage turns from its own expert, which nobody else reads
    (text,) = found(trunk)
    assert text.startswith("levels.1: expert 'engage' is dead: no gate gives it more than 0.00% of an even share")
    assert "(bound 5%). Try gate dropout, or fewer experts." in text


def test_an_expert_that_one_task_wants_is_not_dead():
    trunk = ple()
    with torch.no_grad():
        trunk.levels[1].gates.scores.bias[0, 1] = -50  # engage turns from a shared expert, which purchase reads
    assert found(trunk) == []


def test_the_bound_of_a_dead_expert_is_a_share_of_an_even_share():
    trunk = OMoE(8, 2, num_experts=2, layers=[16]).eval()
    with torch.no_grad():
        trunk.gates.scores.weight.zero_()
        trunk.gates.scores.bias.copy_(torch.tensor([[0.1, 0.9]]).log())  # 0.1 is a fifth of the even 0.5
    assert found(trunk, Bounds(dead=0.19)) == []
    (text,) = found(trunk, Bounds(dead=0.21))
    assert "expert 'expert 0' is dead: no gate gives it more than 20.00% of an even share (bound 21%)" in text


def test_a_polarised_gate_is_named_with_what_it_chose():
    trunk = ple()
    force(trunk.levels[1].gates, 1, 2)
    texts = found(trunk)
    polarised, dead = sorted(texts, key=lambda text: "dead" in text)
    assert polarised.startswith(
        "levels.1: the gate of 'purchase' is polarised: entropy 0.000 of 1 (bound 0.05), 100.0%"
    )
    assert "expert 'shared 1' has 1.000 of its weight. Try gate dropout" in polarised
    assert dead.startswith("levels.1: expert 'purchase' is dead")


def test_a_gate_that_chooses_by_row_is_polarised_too():
    trunk = OMoE(8, 2, num_experts=2, layers=[16]).eval()
    with torch.no_grad():
        trunk.gates.scores.weight.mul_(1e4)  # half the rows here, half there: no expert is dead
    texts = found(trunk)
    assert len(texts) == 1
    assert "the gate of 'all tasks' is polarised" in texts[0]


def test_a_polarised_gate_beside_a_residual_names_what_the_gate_chose():
    trunk = AdaTT(8, 2, levels=[[16]]).eval()
    force(trunk.levels[0].gates, 0, 1)
    (text,) = found(trunk)  # its own expert lives by the residual
    assert "the gate of 'engage' is polarised" in text
    assert "expert 'purchase' has 1.000 of its weight" in text


def test_experts_that_do_the_same_are_named_together():
    trunk = OMoE(8, 2, num_experts=4, layers=[16]).eval()
    with torch.no_grad():
        for layer in trunk.experts.layers:
            for copy in (2, 3):
                layer.weight[copy] = 3 * layer.weight[0]
                layer.bias[copy] = 3 * layer.bias[0]  # ReLU: three times the same
    (text,) = found(trunk)
    assert text.startswith(
        "trunk: experts ['expert 0', 'expert 2', 'expert 3'] do the same: similarity to the first at"
    )
    assert "at least 1.0000 (bound 0.99)" in text
    assert found(trunk, Bounds(alike=1.0)) == []


def test_an_expert_that_says_nothing_is_named():
    trunk = OMoE(8, 2, num_experts=3, layers=[16]).eval()
    with torch.no_grad():
        trunk.experts.layers[0].bias[1] = -1000  # ReLU gives 0 whatever it reads
    (text,) = found(trunk)
    assert text.startswith("trunk: expert 'expert 1' is silent: its output is the same for every row.")


def test_a_split_without_rows_brings_no_warning():
    assert warnings_of(seen(ple(), rows(4), tasks=TASKS, rows=0)) == []


@pytest.mark.parametrize("name", ["dead", "polarised", "alike"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_bounds_outside_0_and_1_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"Bounds: {name} must lie in \[0, 1\], but found {value}"):
        Bounds(**{name: value})
