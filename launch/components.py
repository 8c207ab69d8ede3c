"""TorchX components: the same job on a laptop, on Slurm or on Kubernetes.

``torchx run -s local_cwd launch/components.py:train --job examples/complete_journey/job.yaml --ranks 2``
"""

from typing import Dict, Optional  # TorchX's linter reads these spellings alone

import torchx
from torchx import specs
from torchx.components import dist


def train(
    *arguments: str,
    job: str,
    ranks: int = 2,
    nodes: int = 1,
    gpus: int = 0,
    cpus: int = 2,
    memory_mb: int = 8192,
    retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    image: str = torchx.IMAGE,
    name: str = "torchrec-mtl",
    command: str = "train",
) -> specs.AppDef:
    """Runs a job file on every rank of every node.

    Args:
        arguments: further arguments of the job, for instance --training.epochs 2; they win over the job file
        job: job file (YAML), as the nodes see it
        ranks: processes a node; with GPUs one for each
        nodes: number of nodes
        gpus: GPUs a node; 0 for CPU
        cpus: CPU cores a node
        memory_mb: memory a node, in MiB
        retries: how often Slurm or Kubernetes restarts a failed job, which then resumes from its newest checkpoint
        env: environment variables of every rank (A=1,B=2)
        image: container image with torchrec_mtl, for schedulers that use one
        name: name of the job
        command: train, evaluate or predict
    """
    if command not in ("train", "evaluate", "predict"):
        raise ValueError(f"command must be train, evaluate or predict, but found '{command}'.")
    if min(ranks, nodes) < 1:
        raise ValueError(f"ranks and nodes must be at least 1, but found ranks={ranks}, nodes={nodes}.")
    if gpus and gpus < ranks:
        raise ValueError(f"Each rank needs a GPU of its own, but found ranks={ranks} and gpus={gpus} on a node.")
    devices = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}  # ranks on the CPU must not fight for a GPU that is there
    resume = ["--resume"] if retries and command == "train" else []
    return dist.ddp(
        command,
        "--config",
        job,
        *resume,
        *arguments,
        m="torchrec_mtl.cli",
        image=image,
        name=f"/{name}",
        cpu=cpus,
        gpu=gpus,
        memMB=memory_mb,
        j=f"{nodes}x{ranks}",
        env={**devices, **(env or {})},
        max_retries=retries,
    )
