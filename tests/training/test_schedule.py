"""Learning rates rise, stay and fall, for tables and towers together."""

import pytest
import torch

from torchrec_mtl.testing.parity import make_batch, make_objective
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableOptimizer, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.schedule import Schedule, ScheduledRates


def test_without_a_schedule_the_rate_stays():
    assert {Schedule().factor(step, 10) for step in range(12)} == {1.0}


@pytest.mark.parametrize(
    ("step", "expected"),
    # 100 steps, 4 of warm-up, decay over the last half to 0.2
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (50, 1.0), (75, 0.2 + 0.8 * 0.5), (99, 0.2 + 0.8 * 0.02), (100, 0.2)],
)
def test_rise_and_fall(step, expected):
    assert Schedule(warmup_steps=4, decay=0.5, final=0.2).factor(step, 100) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"warmup_steps": -1}, {"decay": 1.5}, {"final": -0.1}])
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"decay and final must lie in \[0, 1\], but found"):
        Schedule(**wrong)


def moves():
    """How far tables and towers move in each of three steps, at the full rate and then at none."""
    with distributed() as runtime:
        pipeline = build_train_pipeline(
            make_objective("meta"),
            lambda p: torch.optim.SGD(p, lr=0.1),
            TableOptimizer(torch.optim.SGD, lr=0.1),
            device=runtime.device,
        )
        rates = ScheduledRates(pipeline._optimizer, Schedule(decay=1.0), total=1)
        found = []
        for step in range(3):
            before = snapshot(pipeline)
            rates.set(step)
            pipeline.progress(iter([make_batch(step)]))
            found.append(
                [float((now - then).abs().sum()) for now, then in zip(snapshot(pipeline), before, strict=True)]
            )
        return found


def snapshot(pipeline):
    state = pipeline._model.state_dict()
    tables = [v.local_tensor() if hasattr(v, "local_tensor") else v for k, v in state.items() if "embedding_bags" in k]
    towers = [v for k, v in state.items() if "embedding_bags" not in k]
    return [torch.cat([value.detach().clone().flatten() for value in part]) for part in (tables, towers)]


def test_tables_and_towers_follow_in_the_same_step():
    (found,) = run_on_ranks(moves, 1)
    assert min(found[0]) > 0, "the factor at step 0 of 1 is 1"
    assert found[1] == found[2] == [0, 0], "and 0 from the end on"
