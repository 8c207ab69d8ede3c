"""What a person sees while a job runs."""

import io
import json

from rich.console import Console

from torchrec_mtl.training.reporting import Bar, Reporter, metrics_table, write_metrics


def test_the_bar_keeps_the_last_loss_beside_the_speed():
    out = io.StringIO()
    with Bar(Console(file=out, width=120), "epoch 1/1", total=30, done=0) as bar:
        bar.advance(10, loss=0.25)
        bar.advance(10)
        assert bar.note.startswith("loss 0.2500  ")
        assert bar.note.endswith(" samples/s")
    assert out.getvalue().startswith("epoch 1/1: 30/30  loss 0.2500")


def test_ranks_other_than_0_are_silent(capsys):
    reporter = Reporter(active=False)
    with reporter.bar("epoch", 10) as bar:
        bar.advance(10, loss=1.0)
    reporter.say("hello")
    assert capsys.readouterr().out == ""


def test_curves_before_a_resumed_step_stay(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, points in ((0, (10, 20, 30)), (20, (30,))):
        reporter = Reporter(True, tmp_path, first)
        for step in points:
            reporter.scalars({"loss": step + first}, step)
        reporter.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    # step 30 was taken again after the resume at 20: its old point is gone, those up to 20 are there
    assert [(point.step, point.value) for point in curves.Scalars("loss")] == [(10, 10.0), (20, 20.0), (30, 50.0)]


def test_what_is_no_number_is_null_in_json_and_empty_in_the_table(tmp_path):
    write_metrics(tmp_path / "new" / "metrics.json", {"tasks": {"ctr": {"auc": float("nan"), "rows": 3.0}}})
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {"tasks": {"ctr": {"auc": None, "rows": 3.0}}}
    out = io.StringIO()
    Console(file=out, width=80).print(metrics_table("test", {"ctr": {"auc": 0.5}, "value": {"mae": 2.0}}))
    assert "0.5000" in out.getvalue()
    assert "2.0000" in out.getvalue()
