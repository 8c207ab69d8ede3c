"""What every trunk must do."""

import os
from collections import Counter
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.experts import Gates
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.links import NAMES
from torchrec_mtl.testing.modules import (
    IN_FEATURES,
    MODULE_CHECKS,
    NUM_TASKS,
    ROWS,
    assert_close_for_bfloat16,
    made,
    rows,
)
from torchrec_mtl.training import TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.pipeline import check_pipelined
from torchrec_mtl.trunks import LayerOptions
from torchrec_mtl.trunks.task_parts import place_of


def trunk_has_its_shape(make):
    trunk = made(make)
    assert (trunk.in_features, trunk.num_tasks) == (IN_FEATURES, NUM_TASKS)
    shape = trunk(rows()).shape
    assert shape == (ROWS, shape[1], trunk.out_features)
    assert shape[1] in (1, NUM_TASKS)  # 1: one vector that all tasks read


def trunk_computes_in_float32_and_bfloat16(make):
    trunk = made(make).eval()
    exact = trunk(rows())
    assert exact.dtype == torch.float32
    rough = trunk.bfloat16()(rows(dtype=torch.bfloat16))
    assert rough.dtype == torch.bfloat16
    assert_close_for_bfloat16(rough, exact)


def says_only_of_what_is_there_whose_it_is(make):
    trunk = made(make)
    parts = trunk.task_parts()
    tasks = [f"task {t}" for t in range(trunk.num_tasks)]
    places = {name: place_of(name, entry.shape, parts or {}, tasks) for name, entry in trunk.state_dict().items()}
    assert len({place.name for place in places.values()}) == len(places), "two entries of one name"


PIPELINED = Features([Table("shop", 10, 4)], [SparseFeature("shop")])  # beside four dense columns: IN_FEATURES


def pipelined_batch():
    shops = KeyedJaggedTensor(["shop"], torch.arange(ROWS) % 10, lengths=torch.ones(ROWS).int(), stride=ROWS)
    return MultiTaskBatch(rows(width=IN_FEATURES - 4), shops, labels={"click": (torch.arange(ROWS) % 3 == 0).float()})


def trunk_is_pipelined(make):
    """TorchRec traces the model to look tables up ahead; a trunk is a leaf to it, unless it says otherwise."""
    trunk = made(make)
    embeddings = EmbeddingBagCollection(tables=PIPELINED.embedding_bag_configs(), device=torch.device("meta"))
    heads = TaskHeads({name: Tower(trunk.out_features, hidden=[4]) for name in NAMES[:NUM_TASKS]})
    model = MultiTaskModel(embeddings, trunk, heads)
    objective = MultiTaskObjective(model, [BinaryTask(name, "click") for name in NAMES[:NUM_TASKS]])
    before = {name: value.clone() for name, value in trunk.named_parameters()}
    with patch.dict(os.environ), ExitStack() as group:
        os.environ.pop("RANK", None)  # a group of this process alone, gone afterwards; one that stands is used
        runtime = group.enter_context(distributed())
        pipeline = build_train_pipeline(
            objective, torch.optim.Adam, device=runtime.device, constraints={"shop": TableSharding(["row_wise"])}
        )
        pipeline.progress(iter([pipelined_batch(), pipelined_batch()]))
        check_pipelined(pipeline)
        assert len(pipeline._pipelined_modules) == 1, "the tables are not looked up ahead"
    assert any(not torch.equal(before[name], value) for name, value in trunk.named_parameters()), "no step was made"


TRUNK_CHECKS = [
    trunk_is_pipelined,
    says_only_of_what_is_there_whose_it_is,
    trunk_has_its_shape,
    trunk_computes_in_float32_and_bfloat16,
    *MODULE_CHECKS,
]


class OwnNorm(torch.nn.LayerNorm):
    """A class of one's own, which no faster way may leave out."""


class OwnActivation(torch.nn.Tanh):
    """Likewise."""


KINDS = (OwnNorm, OwnActivation, torch.nn.Dropout)
OWN_OPTIONS = LayerOptions(dropout=0.3, activation=OwnActivation, norm=OwnNorm)


def trunk_has_its_options_in_every_layer(make, networks):
    """Norm, activation and dropout follow one another after each layer of each network, once a forward pass.

    Args:
        make: Makes the trunk from ``options``.
        networks: ``{width of a layer: number of networks that have a layer of this width}``.
    """
    trunk, seen = made(partial(make, options=OWN_OPTIONS)), []
    for module in trunk.modules():
        if isinstance(module, KINDS):
            module.register_forward_hook(lambda module, args, output: seen.append((module, args[0], output)))
    features = rows()
    trunk(features)
    found = [[call for call in seen if isinstance(call[0], kind)] for kind in KINDS]
    for kind, calls in zip(KINDS, found, strict=True):
        assert Counter(call[1].shape[-1] for call in calls) == networks, f"{kind.__name__} of some layer is not called"
        assert len({id(call[0]) for call in calls}) == len(calls), f"{kind.__name__} of two layers is one module"
    norms, activations, dropouts = found
    assert all(norm.normalized_shape == (x.shape[-1],) for norm, x, _ in norms)
    assert all(dropout.p == 0.3 for dropout, _, _ in dropouts)
    for before, after in ((norms, activations), (activations, dropouts)):
        assert {id(output) for _, _, output in before} == {id(x) for _, x, _ in after}, "not one after the other"


def trunk_has_its_dropout_in_every_gate(make, gates):
    """``gate_dropout`` is that of each bank of gates.

    Args:
        make: Makes the trunk from ``gate_dropout``.
        gates: Number of gates in all.
    """
    banks = [module for module in made(partial(make, gate_dropout=0.25)).modules() if isinstance(module, Gates)]
    assert sum(len(bank.scores.bias) for bank in banks) == gates
    assert [bank.dropout for bank in banks] == [0.25] * len(banks)


class Mean(torch.nn.Module):
    """The plainest tower, for trunks that look at what the towers make of their vectors."""

    def forward(self, features):
        return features.float().mean(1)


def bound_trunk(trunk_class, **arguments):
    trunk = trunk_class(in_features=IN_FEATURES, num_tasks=NUM_TASKS, **arguments)
    trunk.bind({name: Mean() for name in NAMES[:NUM_TASKS]})  # most have no use for it
    return trunk


def trunk_maker(trunk_class, **arguments):
    return partial(bound_trunk, trunk_class, **arguments)


def assert_trunk_contract(trunk_class, **arguments):
    """Runs every check on ``trunk_class(in_features, num_tasks, **arguments)``."""
    for check in TRUNK_CHECKS:
        check(trunk_maker(trunk_class, **arguments))
