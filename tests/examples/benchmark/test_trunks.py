"""The comparison of trunks: both sides compute the same, and the table says what was measured."""

import pytest
import torch

from examples.benchmark import trunks
from examples.benchmark.trunks import TRUNKS, WIDTH, Ours, Size, compare, main, sizes
from torchrec_mtl.experts import Experts
from torchrec_mtl.testing.modules import every_subclass
from torchrec_mtl.trunks import Trunk

SIZE = Size(experts=3, tasks=2, batch=6)


def linears(module):
    return [each for each in module.modules() if isinstance(each, torch.nn.Linear)]


def bank(experts):
    """Weight and bias of each layer of each network of a bank."""
    return [(layer.weight[n], layer.bias[n]) for n in range(experts.number) for layer in experts.layers]


def gates(gates):
    """Weight and bias of each gate."""
    return list(zip(gates.scores.weight, gates.scores.bias, strict=True))


def mixture(level):
    return bank(level.experts) + gates(level.gates)


def extraction(level):
    last = [] if level.shared_gate is None else gates(level.shared_gate)
    return bank(level.shared) + bank(level.own) + gates(level.gates) + last


def each(modules):
    """Linear layers as they stand; banks in the order of their networks."""
    found = []
    for module in modules:
        if isinstance(module, Experts):
            found += bank(module)
        elif isinstance(module, torch.nn.Linear):
            found.append((module.weight, module.bias))
        else:
            found += each(module.children())
    return found


PARTS = {  # weights and biases of a trunk in the order of the plain one's linear layers, where that is not its own
    "OMoE": mixture,
    "MMoE": lambda trunk: mixture(trunk.levels[0]),
    "MMoE-sums": lambda trunk: mixture(trunk.levels[0]),
    "MultiLevelMMoE": lambda trunk: [pair for level in trunk.levels for pair in mixture(level)],
    "CGC": lambda trunk: extraction(trunk.levels[0]),
    "STEM": lambda trunk: extraction(trunk.levels[0]),
    "PLE": lambda trunk: [pair for level in trunk.levels for pair in extraction(level)],
    "AdaTT": lambda trunk: [pair for level in trunk.levels for pair in mixture(level)],
}


@pytest.mark.parametrize("name", TRUNKS)
def test_both_sides_compute_the_same(name):
    torch.manual_seed(0)
    ours, plain = Ours(TRUNKS[name].trunk(SIZE)).eval(), TRUNKS[name].plain(SIZE).eval()
    pairs = PARTS.get(name, lambda trunk: each([trunk]))(ours.trunk) + each(ours.heads.towers)
    with torch.no_grad():
        for layer, (weight, bias) in zip(linears(plain), pairs, strict=True):
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(bias)
        for free, its in free_parameters(ours, plain):
            free.copy_(its)
    features = torch.randn(SIZE.batch, WIDTH)
    for one, other in zip(ours(features), plain(features), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def free_parameters(ours, plain):
    """Matrices that belong to no linear layer: stitches and label embeddings."""
    for name in ("stitches", "labels"):
        yield from zip(getattr(getattr(plain, "trunk", plain), name, ()), getattr(ours.trunk, name, ()), strict=True)


def test_every_trunk_has_a_plain_one_beside_it():
    assert {each.__name__ for each in every_subclass(Trunk)} <= TRUNKS.keys()


class Clock:
    """In place of the module time: moves only when a network says so."""

    def __init__(self):
        self.now = 5.0

    def perf_counter(self):
        return self.now


class Takes(torch.nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, features):
        self.clock.now += self.seconds
        return [features]


def test_the_ratio_is_of_the_plain_sides_time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(trunks, "time", clock)
    features = torch.ones(2, 3, requires_grad=True)
    found = compare(Takes(clock, 0.01), Takes(clock, 0.03), features, rounds=3)
    assert found["ours"]["min"] == pytest.approx(10)  # milliseconds
    assert found["plain"]["min"] == pytest.approx(30)
    assert found["ratio"]["median"] == pytest.approx(3)


def test_the_grid_holds_what_the_goals_name():
    experts = [4, 8, 16, 64]
    grid = set(sizes(False, TRUNKS["MMoE"], experts))
    assert {Size(e, t, b) for e in experts for t in (2, 8, 16) for b in (512, 4096)} == grid
    assert {size.experts for size in sizes(False, TRUNKS["SharedBottom"], experts)} == {0}


def test_the_command_writes_a_table(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    try:
        assert main(["--quick", "--threads", "1", "--output", str(tmp_path / "to" / "table.md")]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = (tmp_path / "to" / "table.md").read_text().splitlines()
    assert lines[0].startswith("| trunk | experts | tasks | batch |")
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(TRUNKS)
