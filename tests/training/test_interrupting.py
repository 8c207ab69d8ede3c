"""Ctrl-C while a job is trained: a line that says where it goes on, and no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.synthetic import make_world


def interrupted(root, command, only_parent):
    """Trains for long, and interrupts it once there is a checkpoint; gives what is printed and the exit code."""
    path = make_world(root, train_rows=300)
    train = ["torchrec_mtl.cli", "train", "--config", path, "--training.epochs=100000", "--data.validation=[]"]
    process = subprocess.Popen(
        [*command, "-m", *train, "--training.checkpoint_every=5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    until = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < until and not [*root.rglob("meta.json")]:
        time.sleep(0.1)
    (os.kill if only_parent else os.killpg)(process.pid, signal.SIGINT)
    try:
        text, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return text, process.returncode


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_an_interrupted_run_says_where_it_goes_on(tmp_path):
    text, code = interrupted(tmp_path, [sys.executable], only_parent=True)
    assert code == 130
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("Interrupted")]
    newest = sorted(path.parent for path in tmp_path.rglob("meta.json"))[-1]
    assert line.startswith("Interrupted at step ")
    assert line.endswith(f"; --resume goes on from {newest}.")


@pytest.mark.slow
@pytest.mark.parametrize("only_parent", [True, False], ids=["torchrun alone", "all, as a terminal does"])
def test_interrupted_ranks_print_no_tracebacks(tmp_path, only_parent):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    text, code = interrupted(tmp_path, torchrun, only_parent)
    assert code != 0
    assert "torchrec_mtl/" not in "".join(line for line in text.splitlines() if 'File "' in line), "none from our side"
    assert text.count("Interrupted") == 1, "rank 0 alone"
