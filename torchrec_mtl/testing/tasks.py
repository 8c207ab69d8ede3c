"""What every task must do."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torchrec_mtl.loss import MultiTaskLoss
from torchrec_mtl.testing.modules import ROWS, rows


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
