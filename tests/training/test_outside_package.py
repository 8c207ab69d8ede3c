"""A head, a trunk, a link, a task kind and a balancer from somebody else's package, by import path alone."""

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.synthetic import job, make_world, write_job
from torchrec_mtl.testing.trunks import assert_trunk_contract

OURS = {
    "my_shop/__init__.py": "",
    "my_shop/two_layers.py": """
        from torch import nn
        from torchrec_mtl.trunks import Trunk

        class TwoLayers(Trunk):
            '''One linear layer a task.

            Args:
                in_features: Input width.
                num_tasks: Number of towers.
                width: Output width.
            '''

            def __init__(self, in_features: int, num_tasks: int, *, width: int = 8) -> None:
                super().__init__(in_features, num_tasks, width)
                self.layer = nn.Linear(in_features, num_tasks * width)

            def forward(self, features):
                return self.layer(features).relu().unflatten(1, (self.num_tasks, -1))
    """,
    "my_shop/scaled_head.py": """
        from torch import nn
        from torchrec_mtl.heads import Head

        class ScaledHead(Head):
            def __init__(self, in_features: int, *, scale: float = 1.0) -> None:
                super().__init__()
                self.scale = scale
                self.layer = nn.Linear(in_features, 1)

            def forward(self, features):
                return self.scale * self.layer(features).squeeze(1).float()
    """,
    "my_shop/odds_sum.py": """
        from torchrec_mtl.heads import Link

        class OddsSum(Link):
            def forward(self, outputs):
                return sum(outputs[name] for name in self.of)
    """,
    "my_shop/rank_task.py": """
        from dataclasses import dataclass, field
        from torchrec_mtl.tasks import BinaryTask

        @dataclass(frozen=True)
        class SharpTask(BinaryTask):
            '''Sharpened cross-entropy.'''

            power: float = 2.0
            notes: list[str] = field(default_factory=list)  # a task need not be hashable

            def loss(self, output, label):
                return super().loss(output, label) ** self.power
    """,
    "my_shop/largest.py": """
        from torchrec_mtl.balancers import Balancer

        class Largest(Balancer):
            def forward(self, losses):
                return (self.weights * losses).max() + 0.1 * losses.sum()
    """,
}


@pytest.fixture
def package(tmp_path):
    for name, text in OURS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def test_a_job_file_names_classes_of_another_package(package):
    world = package / "world"
    world.mkdir()
    make_world(world, train_rows=200)
    content = copy.deepcopy(job(world))
    content["network"]["trunk"] = {"class_path": "my_shop.two_layers.TwoLayers", "init_args": {"width": 6}}
    content["network"]["towers"]["cvr"] = {"class_path": "my_shop.scaled_head.ScaledHead", "init_args": {"scale": 2.0}}
    content["network"]["links"].append(
        {"class_path": "my_shop.odds_sum.OddsSum", "init_args": {"name": "odds", "of": ["ctr", "ctcvr"]}}
    )
    content["tasks"].append(
        {
            "class_path": "my_shop.rank_task.SharpTask",
            "init_args": {"name": "odds", "label": "purchase", "power": 1.5},
        }
    )
    content["balancer"] = {"class_path": "my_shop.largest.Largest"}
    path = write_job(package / "job.yaml", content)
    environment = {**os.environ, "PYTHONPATH": ""}  # nothing but the working directory makes my_shop importable
    environment.pop("RANK", None)
    command = [str(Path(sys.executable).parent / "torchrec-mtl")]
    subprocess.run([*command, "train", "--config", path], cwd=package, env=environment, check=True, timeout=240)
    predict = ["predict", "--config", path, "--rows", f"[{world}/test]", "--predictions", "out"]
    subprocess.run([*command, *predict], cwd=package, env=environment, check=True, timeout=240)
    assert pq.read_schema(package / "out" / "part-00000.parquet").names[-1] == "odds"


def test_an_outside_trunk_passes_the_contract_by_one_import(package, monkeypatch):
    monkeypatch.syspath_prepend(str(package))
    from my_shop.two_layers import TwoLayers

    assert_trunk_contract(TwoLayers)
