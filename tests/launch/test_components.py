"""The TorchX component: what each scheduler would run, and a real local run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torchx.runner import get_runner
from torchx.specs import AppDryRunInfo
from torchx.specs.file_linter import validate

from launch.components import train
from tests.synthetic import make_world

COMPONENT = Path(__file__).parents[2] / "launch" / "components.py"
ARGUMENTS = ["--job", "job.yaml", "--nodes", "3", "--ranks", "8", "--gpus", "8", "--retries", "2", "--env", "A=1,B=2"]


def dry_run(scheduler, config, *arguments) -> AppDryRunInfo:
    with get_runner() as runner:
        return runner.dryrun_component(f"{COMPONENT}:train", list(arguments), scheduler, config, workspace=None)


def test_torchx_accepts_the_component():
    assert validate(str(COMPONENT), "train") == []


def test_slurm_gets_nodes_processes_gpus_and_arguments():
    request = dry_run("slurm", {}, *ARGUMENTS, "--", "--training.epochs", "2").request
    (replica, *others) = request.replicas.values()
    assert len(others) == 2, "three nodes"
    assert replica.sbatch_opts["gpus-per-task"] == "8"
    assert replica.sbatch_opts["ntasks-per-node"] == "1", "one torchrun a node, which starts the ranks"
    command = " ".join(replica.args)
    assert "--nnodes 3" in command
    assert "--nproc_per_node 8" in command
    assert "-m torchrec_mtl.cli train --config job.yaml --resume --training.epochs 2" in command
    assert replica.env["A"] == "1"
    assert replica.env["B"] == "2"


def test_kubernetes_gets_nodes_processes_gpus_and_arguments():
    pytest.importorskip("kubernetes")
    request = dry_run("kubernetes", {"queue": "default"}, *ARGUMENTS, "--image", "shop/mtl:1").request
    tasks = request.resource["spec"]["tasks"]
    assert sum(task["replicas"] for task in tasks) == 3
    assert request.resource["spec"]["queue"] == "default"
    for task in tasks:
        assert task["maxRetry"] == 2
        (container,) = task["template"].spec.containers
        assert container.image == "shop/mtl:1"
        assert container.resources.limits["nvidia.com/gpu"] == "8"
        command = " ".join(container.command)
        assert "--nnodes 3" in command
        assert "--nproc_per_node 8" in command
        assert "torchrec_mtl.cli train --config job.yaml --resume" in command
        assert {"A": "1", "B": "2"}.items() <= {entry.name: entry.value for entry in container.env}.items()


def test_without_gpus_the_ranks_see_none():
    (role,) = train(job="job.yaml").roles
    assert role.env["CUDA_VISIBLE_DEVICES"] == ""
    (role,) = train(job="job.yaml", gpus=2).roles
    assert "CUDA_VISIBLE_DEVICES" not in role.env


def test_without_retries_a_run_does_not_resume_by_itself():
    (role,) = train(job="job.yaml").roles
    assert "--resume" not in role.args[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"command": "fly"}, "command must be train, evaluate or predict, but found 'fly'"),
        ({"ranks": 0}, "ranks and nodes must be at least 1, but found ranks=0"),
        ({"ranks": 8, "gpus": 4}, "Each rank needs a GPU of its own, but found ranks=8 and gpus=4"),
    ],
)
def test_bad_arguments(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        train(job="job.yaml", **arguments)


def test_a_local_run_on_two_ranks(tmp_path):
    job = make_world(tmp_path, train_rows=200)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["torchx", "run", "-s", "local_cwd", f"{COMPONENT}:train", "--job", job, "--ranks", "2"]
    environment = {**os.environ, "PATH": path}
    environment.pop("RANK", None)
    done = subprocess.run(
        [*command, "--", "--training.epochs=1"],
        cwd=COMPONENT.parents[1],
        env=environment,
        timeout=240,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["split"] == "test"
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert json.loads((checkpoint / "meta.json").read_text())["world_size"] == 2
