"""What every trunk, head, link, balancer and task must do, also one that lives in another package.

An out-of-tree class is tested by one import::

    from tests.contract import assert_trunk_contract

    def test_my_trunk():
        assert_trunk_contract(MyTrunk, layers=[16])

``tests.trunk_ranks`` holds what takes two processes.
"""

import inspect
import json
import os
import pkgutil
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import FrozenInstanceError, replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ks_2samp
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.experts import Gates
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.loss import MultiTaskLoss
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.training import TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.pipeline import check_pipelined
from torchrec_mtl.trunks import LayerOptions
from torchrec_mtl.trunks.task_parts import place_of

IN_FEATURES, NUM_TASKS, ROWS = 8, 3, 64


def every_subclass(base):
    """Concrete subclasses of ``base`` in the package that ``base`` stands in; a new file is found by itself."""
    package = base.__module__.rpartition(".")[0]
    for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)
    found, waiting = set(), [base]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found |= {each for each in below if not inspect.isabstract(each) and each.__module__.startswith(f"{package}.")}
    assert found, f"no subclass of {base.__name__} in {package}: the contract would test nothing"
    return sorted(found, key=lambda each: each.__name__)


def rows(count=ROWS, width=IN_FEATURES, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(7)).to(dtype)


def made(make, seed=0):
    torch.manual_seed(seed)
    return make()


def assert_every_parameter_gets_a_gradient(module, *inputs):
    """A parameter without a gradient is unused, and data-parallel training would wait for it forever."""
    output = module(*inputs)
    mix = torch.randn(
        output.shape, generator=torch.Generator().manual_seed(3)
    )  # a plain sum may cancel, as softmax does
    (output * mix).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"
        assert parameter.grad.count_nonzero() > 0, f"{name} gets a gradient of zeros"


def assert_close_for_bfloat16(rough, exact):
    """Up to a share of how far rows differ, however small that is: of 8 bits each rounding takes up to 0.4 %."""
    error, spread = rough.float() - exact, exact.std(0).square().mean().sqrt()  # of a unit over rows
    assert error.square().mean().sqrt() < 0.05 * spread
    assert error.abs().max() < 0.5 * spread


def accepts_a_batch_of_one_row_and_of_none(make):
    module = made(make)
    expected = module(rows()).shape[1:]
    for count in (1, 0):
        output = module(rows(count))
        assert output.shape == (count, *expected)
        output.sum().backward()  # a rank may be given no row: its backward must run all the same


def gives_every_parameter_a_gradient(make):
    assert_every_parameter_gets_a_gradient(made(make), rows())


def loads_its_own_state(make):
    first, second = made(make, seed=0).eval(), made(make, seed=1).eval()
    assert not torch.equal(first(rows()), second(rows())), "two seeds give one function: this check would see nothing"
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(rows()), second(rows()))


def repeats_itself_when_evaluated(make):
    module = made(make).eval()
    assert torch.equal(module(rows()), module(rows()))


@contextmanager
def nan_in_fresh_memory():
    """Memory that nobody wrote to shows: where torch is deterministic it fills it with NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def started_on_meta(make, seed=0):
    """A module made on the meta device, and given memory and a start by TorchRec's own code."""
    with torch.device("meta"):
        module = make()
    torch.manual_seed(seed)
    with nan_in_fresh_memory():
        DistributedModelParallel._init_parameters(SimpleNamespace(device=torch.device("cpu")), module)
    return module


def numbers_of(modules):
    """``{name: [modules, numbers]}`` of all parameters and buffers, of large ones some thousand numbers."""
    parts = [{**dict(module.named_parameters()), **dict(module.named_buffers())} for module in modules]
    found = {name: torch.stack([part[name].detach().double().flatten() for part in parts]) for name in parts[0]}
    return {name: values[:, :: values.shape[1] // 1000 + 1].numpy() for name, values in found.items()}


def starts_on_meta_as_on_a_real_device(make, inputs=rows):
    """DistributedModelParallel gives memory to modules on meta, and calls ``reset_parameters`` of who has it."""
    here, there = ([start(make, seed) for seed in range(8)] for start in (made, started_on_meta))
    expected, found = numbers_of(here), numbers_of(there)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert np.isfinite(found[name]).all(), f"{name} has no start: give the module that holds it reset_parameters()"
        if (values == values[0]).all():
            assert np.array_equal(found[name], values), f"{name} starts with {found[name][0]}, not {values[0]}"
        else:
            like = ks_2samp(values.flatten(), found[name].flatten(), method="asymp")
            assert like.pvalue > 1e-5, f"{name} is drawn from another distribution than on a real device"
    there[0].load_state_dict(here[0].state_dict())  # what then differs is no state
    outputs = [module.eval()(inputs()) for module in (here[0], there[0])]
    assert torch.equal(*outputs), "something that is no part of the state starts otherwise"


def sees_each_row_alone_when_evaluated(make):
    module = made(make).eval()
    together = module(rows())
    for i in (0, ROWS - 1):
        torch.testing.assert_close(module(rows()[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-5)


# --- trunks


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
    starts_on_meta_as_on_a_real_device,
    says_only_of_what_is_there_whose_it_is,
    trunk_has_its_shape,
    trunk_computes_in_float32_and_bfloat16,
    accepts_a_batch_of_one_row_and_of_none,
    gives_every_parameter_a_gradient,
    loads_its_own_state,
    repeats_itself_when_evaluated,
    sees_each_row_alone_when_evaluated,
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


# --- heads


def head_gives_float32_from_any_input(make):
    head = made(make).eval()
    exact = head(rows())
    rough = head.bfloat16()(rows(dtype=torch.bfloat16))
    for output in (exact, rough):
        assert output.dtype == torch.float32
        assert output.ndim in (1, 2)
        assert len(output) == ROWS
    assert_close_for_bfloat16(rough, exact)


HEAD_CHECKS = [
    starts_on_meta_as_on_a_real_device,
    head_gives_float32_from_any_input,
    accepts_a_batch_of_one_row_and_of_none,
    gives_every_parameter_a_gradient,
    loads_its_own_state,
    repeats_itself_when_evaluated,
    sees_each_row_alone_when_evaluated,
]


def head_maker(head_class, **arguments):
    return partial(head_class, IN_FEATURES, **arguments)


def assert_head_contract(head_class, **arguments):
    """Runs every check on ``head_class(in_features, **arguments)``."""
    for check in HEAD_CHECKS:
        check(head_maker(head_class, **arguments))


# --- links


TWO_LOGITS = (1, 1)
NAMES = ("first", "second", "third", "fourth")


def link_inputs(widths, count=ROWS, dtype=torch.float32):
    """An output of each width (1 is ``[B]``, K is ``[B, K]``), and "other", which holds NaN: who reads it shows it."""
    values = rows(count, sum(widths)).mul(3).to(dtype).split(list(widths), dim=1)
    found = {
        name: value.squeeze(1) if value.shape[1] == 1 else value for name, value in zip(NAMES, values, strict=False)
    }
    return {**found, "other": torch.full((count,), float("nan"))}


def made_link(make, widths):
    """The link, and bound to tasks that predict every output as it is: most have no use for it."""
    link = make("made", of=NAMES[: len(widths)])
    link.bind({name: lambda output: output.float() for name in (*NAMES, "made")})
    return link


def link_knows_its_names(make, widths):
    link = made_link(make, widths)
    assert (link.name, link.of) == ("made", NAMES[: len(widths)])


def link_reads_what_it_names_and_nothing_else(make, widths):
    outputs = link_inputs(widths)
    found = made_link(make, widths)(outputs)
    assert len(found) == ROWS
    assert found.isfinite().all()
    for read in NAMES[: len(widths)]:
        changed = made_link(make, widths)({**outputs, read: 2 * outputs[read] + 1})  # a softmax does not see a mere sum
        assert not torch.equal(changed, found), f"the link names '{read}', but does not read it"


def link_leaves_what_it_reads_as_it_was(make, widths):
    outputs, before = link_inputs(widths), link_inputs(widths)
    made_link(make, widths)(outputs)
    assert outputs.keys() == before.keys()
    assert all(torch.equal(outputs[name], before[name]) for name in NAMES[: len(widths)])


def link_sees_each_row_alone(make, widths):
    outputs = link_inputs(widths)
    together = made_link(make, widths)(outputs)
    for i in (0, ROWS - 1):
        alone = made_link(make, widths)({name: value[i : i + 1] for name, value in outputs.items()})
        torch.testing.assert_close(alone[0], together[i])


def link_gives_float32_from_bfloat16(make, widths):
    rough = made_link(make, widths)(link_inputs(widths, dtype=torch.bfloat16))
    assert rough.dtype == torch.float32
    inputs = {name: value.float() for name, value in link_inputs(widths, dtype=torch.bfloat16).items()}
    torch.testing.assert_close(rough, made_link(make, widths)(inputs))


def link_accepts_one_row_and_none(make, widths):
    assert len(made_link(make, widths)(link_inputs(widths, 1))) == 1
    assert len(made_link(make, widths)(link_inputs(widths, 0))) == 0


def link_refuses_senseless_names(make, widths):
    for of in ((), ("made", "first"), ("first", "first")):
        with pytest.raises(ValueError, match=r"'made'.*must name other outputs, each once, but found"):
            make("made", of=of)


LINK_CHECKS = [
    link_knows_its_names,
    link_reads_what_it_names_and_nothing_else,
    link_leaves_what_it_reads_as_it_was,
    link_sees_each_row_alone,
    link_gives_float32_from_bfloat16,
    link_accepts_one_row_and_none,
    link_refuses_senseless_names,
]


def assert_link_contract(link_class, widths=TWO_LOGITS, **arguments):
    """Runs every check on ``link_class(name, of, **arguments)``, which reads outputs of these widths."""
    for check in LINK_CHECKS:
        check(partial(link_class, **arguments), widths)


# --- balancers


def balancer_gives_a_scalar(make):
    loss = make([1.0, 0.5, 2.0])(torch.tensor([0.3, 0.7, 1.1]))
    assert loss.shape == ()
    assert loss.isfinite()


def balancer_passes_gradient_to_every_loss(make):
    losses = torch.tensor([0.3, 0.7, 1.1], requires_grad=True)
    make([1.0, 0.5, 2.0])(losses).backward()
    assert losses.grad.isfinite().all()
    assert (losses.grad > 0).all(), "a larger loss of any task must not look better"


def balancer_bears_a_loss_of_zero(make):
    losses = torch.zeros(3, requires_grad=True)  # label spaces that are empty on this step
    loss = make([1.0, 0.5, 2.0])(losses)
    loss.backward()
    assert loss.isfinite()
    assert losses.grad.isfinite().all()


def balancer_takes_a_single_task(make):
    assert make([1.0])(torch.tensor([0.3])).shape == ()


def balancer_refuses_weights_that_are_not_positive(make):
    for weights in ([], [1.0, 0.0], [-1.0]):
        with pytest.raises(ValueError, match="needs a positive weight for each task, but found"):
            make(weights)


def balancer_keeps_declared_weights_out_of_the_state(make):
    assert "weights" not in make([1.0, 2.0]).state_dict(), "the job file says the weights, not the checkpoint"


def balancer_keeps_declared_weights_on_meta(make):
    """A dense part may be built there; DistributedModelParallel would make zeros of buffers."""
    expected, found = make([1.0, 2.0]), started_on_meta(partial(make, [1.0, 2.0]))
    assert torch.equal(found.weights, expected.weights)
    assert torch.equal(found(torch.tensor([0.3, 0.7])), expected(torch.tensor([0.3, 0.7])))


BALANCER_CHECKS = [
    balancer_keeps_declared_weights_on_meta,
    balancer_gives_a_scalar,
    balancer_passes_gradient_to_every_loss,
    balancer_bears_a_loss_of_zero,
    balancer_takes_a_single_task,
    balancer_refuses_weights_that_are_not_positive,
    balancer_keeps_declared_weights_out_of_the_state,
]


def assert_balancer_contract(balancer_class, **arguments):
    """Runs every check on ``balancer_class(weights, **arguments)``."""
    for check in BALANCER_CHECKS:
        check(partial(balancer_class, **arguments))


# --- tasks


def ready(task):
    """The task with statistics, where its kind takes them from labels."""
    return task.fit(task.target(task_labels(task)).numpy(), np.ones(ROWS)) if task.needs_fit else task


def task_labels(task, count=ROWS):
    """Rows inside the task's space: columns of 0, 0.5, 1 and 2 without the rows that the task refuses."""
    generator = torch.Generator().manual_seed(5)
    some = torch.tensor([0.0, 0.5, 1.0, 2.0])
    drawn = {column: some[torch.randint(4, (100 * ROWS,), generator=generator)] for column in task.columns}
    drawn |= {column: torch.ones(100 * ROWS) for column in task.spaces}
    fit = task.space(drawn) & ~task.invalid(task.target(drawn))
    assert fit.sum() >= ROWS, f"{task.name} takes too few of these labels to be tested"
    return {column: values[fit][:count] for column, values in drawn.items()}


def task_output(task, count=ROWS, dtype=torch.float32):
    values = rows(count, task.outputs).mul(3).to(dtype)
    return (values.squeeze(1) if task.outputs == 1 else values).requires_grad_()


def every_row(values, wrong):
    return {column: torch.full_like(value, wrong) for column, value in values.items()}


def task_has_one_loss_a_row_in_float32(task):
    task = ready(task)
    target = task.target(task_labels(task))
    rough = task_output(task, dtype=torch.bfloat16)
    exact = rough.detach().float().requires_grad_()
    for output in (rough, exact):
        loss = task.loss(output, target)
        assert loss.dtype == torch.float32
        assert loss.shape == (ROWS,)
        loss.sum().backward()
    torch.testing.assert_close(task.loss(rough, target), task.loss(exact, target))
    assert exact.grad.isfinite().all()
    assert exact.grad.count_nonzero() > 0


def task_reads_every_output(task):
    task = ready(task)
    output, target = task_output(task).detach(), task.target(task_labels(task))
    for k in range(task.outputs):
        changed = output.clone()
        changed.view(ROWS, -1)[:, k] += 1
        assert not torch.equal(task.loss(changed, target), task.loss(output, target)), f"output {k} is not read"


def task_predicts_in_float32(task):
    task = ready(task)
    if not task.served:
        return
    rough = task_output(task, dtype=torch.bfloat16)
    found = task.predict(rough)
    assert found.dtype == torch.float32
    assert found.ndim in (1, 2)
    assert len(found) == ROWS
    torch.testing.assert_close(found, task.predict(rough.float()))


def task_computes_alike_under_autocast(task):
    task = ready(task)
    output, target = task_output(task), task.target(task_labels(task))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, prediction = task.loss(output, target), task.predict(output) if task.served else None
    torch.testing.assert_close(loss, task.loss(output, target), atol=1e-6, rtol=1e-6)
    if task.served:
        torch.testing.assert_close(prediction, task.predict(output), atol=1e-6, rtol=1e-6)


def task_sees_each_row_alone_and_takes_none(task):
    task = ready(task)
    output, target = task_output(task), task.target(task_labels(task))
    together = task.loss(output, target)
    for i in range(0, ROWS, 9):
        torch.testing.assert_close(task.loss(output[i : i + 1], target[i : i + 1])[0], together[i])
    nothing = task_output(task, count=0)
    loss = task.loss(nothing, target[:0])
    assert loss.shape == (0,)
    loss.sum().backward()  # a rank may be given no row: its backward must run all the same
    if task.served:
        assert task.predict(nothing).shape == (0, *task.predict(output).shape[1:])


def task_keeps_missing_labels_from_its_loss(task):
    task = replace(ready(task), weight=1.0)
    labels = task_labels(task)
    here = torch.arange(ROWS) % 3 > 0
    holes = {
        column: torch.where(here, value, float("nan")) if column in task.columns else value
        for column, value in labels.items()
    }
    before = {column: value.clone() for column, value in holes.items()}
    assert torch.equal(task.space(holes), here)
    for column, value in holes.items():
        torch.testing.assert_close(value, before[column], equal_nan=True)  # left as it was
    output, ones = task_output(task), {task.sample_weight: torch.ones(ROWS)}
    loss, _ = MultiTaskLoss([task])({task.name: output}, holes, ones)
    torch.testing.assert_close(loss, task.loss(output, task.target(labels))[here].mean())
    loss.backward()
    assert output.grad.isfinite().all()
    assert output.grad[~here].count_nonzero() == 0
    assert output.grad[here].count_nonzero() > 0


def task_keeps_to_its_label_space(task):
    spaced = task if task.spaces else replace(task, label_space="shown")
    labels = task_labels(spaced)
    assert spaced.space(labels).all()
    for space in spaced.spaces:
        assert space in spaced.label_columns
        for outside in (0.0, float("nan")):
            assert not spaced.space({**labels, space: torch.full((ROWS,), outside)}).any()


def task_says_which_labels_it_takes(task):
    assert set(task.columns) <= set(task.label_columns)
    assert task.label in task.columns
    labels = task_labels(task)
    found = task.invalid(task.target(labels))
    assert found.dtype == torch.bool
    assert found.shape == (ROWS,)
    assert task.invalid(task.target(every_row(labels, float("inf")))).all()
    assert not task.invalid(task.target(every_row(labels, float("nan")))).any(), "NaN is missing, not invalid"
    assert task.label_domain


def task_gives_numbers_as_metrics(task):
    task = ready(task)
    if not task.served:
        return
    prediction = task.predict(task_output(task)).detach().numpy()
    target = task.target(task_labels(task)).numpy()
    weight, group = np.linspace(0.5, 2, ROWS), np.arange(ROWS) % 5
    for count in (ROWS, 0):
        for groups in (group[:count], None):
            found = task.metrics(prediction[:count], target[:count], weight[:count], groups)
            assert found
            assert all(isinstance(name, str) and type(value) is float for name, value in found.items())
    order = np.arange(ROWS)[::-1]
    assert task.metrics(prediction[order], target[order], weight[order], group[order]) == pytest.approx(
        task.metrics(prediction, target, weight, group), nan_ok=True
    )


def task_carries_its_statistics_as_json(task):
    fitted = ready(task)
    assert not fitted.needs_fit
    assert bool(fitted.statistics) or not task.needs_fit
    again = task.with_statistics(json.loads(json.dumps(fitted.statistics)))
    assert again == fitted


def task_is_a_frozen_value(task):
    assert hash(task) == hash(replace(task))
    with pytest.raises(FrozenInstanceError):
        task.weight = 2.0


def task_bears_any_output(task):
    task = ready(task)
    shape = st.integers(1, 12).map(lambda count: (count,) if task.outputs == 1 else (count, task.outputs))
    outputs = arrays(np.float32, shape, elements=st.floats(-2000, 2000, width=32))

    @settings(deadline=None, max_examples=60)
    @given(outputs, st.sampled_from([torch.float32, torch.bfloat16]))
    def check(values, dtype):
        output = torch.tensor(values).to(dtype).requires_grad_()
        loss = task.loss(output, task.target(task_labels(task, len(values))))
        assert loss.isfinite().all()
        loss.sum().backward()
        assert output.grad.isfinite().all()
        if task.served:
            output.grad = None
            prediction = task.predict(output)
            assert prediction.isfinite().all()
            prediction.sum().backward()  # a link may hand a gradient to a prediction
            assert output.grad.isfinite().all()

    check()


TASK_CHECKS = [
    task_has_one_loss_a_row_in_float32,
    task_reads_every_output,
    task_predicts_in_float32,
    task_computes_alike_under_autocast,
    task_sees_each_row_alone_and_takes_none,
    task_keeps_missing_labels_from_its_loss,
    task_keeps_to_its_label_space,
    task_says_which_labels_it_takes,
    task_gives_numbers_as_metrics,
    task_carries_its_statistics_as_json,
    task_is_a_frozen_value,
    task_bears_any_output,
]


def assert_task_contract(task):
    """Runs every check on a task of the kind; labels are made up from what it takes."""
    for check in TASK_CHECKS:
        check(task)
