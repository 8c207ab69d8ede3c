"""Options are options everywhere: every layer that a trunk's definition has, and every gate."""

import inspect

import pytest

from torchrec_mtl.testing.modules import NUM_TASKS, every_subclass
from torchrec_mtl.testing.trunks import (
    trunk_has_its_dropout_in_every_gate,
    trunk_has_its_options_in_every_layer,
    trunk_maker,
)
from torchrec_mtl.trunks import (
    AITM,
    CGC,
    DBMTL,
    PLE,
    STEM,
    AdaTT,
    CrossStitch,
    HTLNet,
    MMoE,
    MultiLevelMMoE,
    OMoE,
    PEPNet,
    Separate,
    SharedBottom,
    Trunk,
)

T = NUM_TASKS
LAYERS = {"layers": [6, 5]}
LEVELS = {"levels": [[7, 6], [5]]}
EXPERTS = {"num_experts": 4}
BOTH_KINDS = {"shared_experts": 4, "task_experts": 2}
IN_ALL = 2 * T + 4  # experts of BOTH_KINDS


def of(number, *widths):
    return dict.fromkeys(widths, number)


# arguments, {width: networks with a layer of it} and number of gates, as each architecture is defined
DEFINED = {
    SharedBottom: (LAYERS, of(1, 6, 5), 0),
    Separate: (LAYERS, of(T, 6, 5), 0),
    OMoE: (LAYERS | EXPERTS, of(4, 6, 5), 1),
    MMoE: (LAYERS | EXPERTS, of(4, 6, 5), T),
    MultiLevelMMoE: (LEVELS | EXPERTS, of(4, 7, 6, 5), 4 + T),  # a gate for each expert above
    CGC: (LAYERS | BOTH_KINDS, of(IN_ALL, 6, 5), T),
    PLE: (LEVELS | BOTH_KINDS, of(IN_ALL, 7, 6, 5), (T + 1) + T),  # the last level has no shared gate
    STEM: (LEVELS | BOTH_KINDS, of(IN_ALL, 7, 6, 5), (T + 1) + T),
    AdaTT: (LEVELS | {"task_experts": 2}, of(2 * T, 7, 6, 5), 2 * T),
    CrossStitch: (LAYERS, of(T, 6, 5), 0),
    PEPNet: (LAYERS, of(T, 6, 5), 0),
    AITM: (LAYERS, {6: T, 5: T + T - 1}, 0),  # all tasks but the last pass on through a layer
    DBMTL: (
        {"bottom_layers": [9, 8], "task_layers": [7, 6], "relation_layers": [5, 4]},
        of(1, 9, 8) | of(T, 7, 6, 5, 4),
        0,
    ),
    HTLNet: (LAYERS, of(T, 6, 5), 0),
}


def test_every_trunk_is_defined_here():
    assert set(every_subclass(Trunk)) == set(DEFINED), "say how many networks and gates the trunk has"


@pytest.mark.parametrize("trunk_class", DEFINED)
def test_every_layer_has_its_options(trunk_class):
    arguments, networks, _ = DEFINED[trunk_class]
    trunk_has_its_options_in_every_layer(trunk_maker(trunk_class, **arguments), networks)


@pytest.mark.parametrize("trunk_class", DEFINED)
def test_every_gate_has_its_dropout(trunk_class):
    arguments, _, gates = DEFINED[trunk_class]
    assert bool(gates) == ("gate_dropout" in inspect.signature(trunk_class).parameters)
    if gates:
        trunk_has_its_dropout_in_every_gate(trunk_maker(trunk_class, **arguments), gates)
