"""The comparison of trunks: both sides compute the same, and the table says what was measured."""

import pytest
import torch

from examples.benchmark import trunks
from examples.benchmark.trunks import TRUNKS, WIDTH, Ours, Size, compare, main, sizes

SIZE = Size(experts=3, tasks=2, batch=6)


def linears(module):
    return [each for each in module.modules() if isinstance(each, torch.nn.Linear)]


def bank(state, name, number):
    """Weight and bias of each layer of each network of a bank of two layers."""
    layers = [(state[f"{name}.layers.{i}.weight"], state[f"{name}.layers.{i}.bias"]) for i in (0, 1)]
    return [(weight[n], bias[n]) for n in range(number) for weight, bias in layers]


def as_plain(name, ours):
    """Our parameters in the order of the plain network's linear layers."""
    state, found = ours.trunk.state_dict(), []
    if name.startswith("MMoE"):
        found += bank(state, "levels.0.experts", SIZE.experts)
        gates = ours.trunk.levels[0].gates.scores
        found += zip(gates.weight, gates.bias, strict=True)
    elif name == "Separate":
        found += bank(state, "networks", SIZE.tasks)
    else:
        found += [(each.weight, each.bias) for each in linears(ours.trunk)]
    return found + [(each.weight, each.bias) for each in linears(ours.heads)]


@pytest.mark.parametrize("name", TRUNKS)
def test_both_sides_compute_the_same(name):
    torch.manual_seed(0)
    ours, plain = Ours(TRUNKS[name].trunk(SIZE)), TRUNKS[name].plain(SIZE)
    with torch.no_grad():
        for layer, (weight, bias) in zip(linears(plain), as_plain(name, ours), strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    features = torch.randn(SIZE.batch, WIDTH)
    for one, other in zip(ours(features), plain(features), strict=True):
        torch.testing.assert_close(one, other.squeeze(1), atol=1e-5, rtol=1e-5)


class Sleeper(torch.nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, features):
        trunks.time.sleep(self.seconds)
        return [features]


def test_the_ratio_is_of_the_plain_sides_time():
    features = torch.ones(2, 3, requires_grad=True)
    found = compare(Sleeper(0.01), Sleeper(0.03), features, rounds=3)
    assert 10 <= found["ours"]["min"] <= 20
    assert 30 <= found["plain"]["min"] <= 45
    assert 1.8 < found["ratio"]["median"] < 3.2


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
