"""What the README shows, runs."""

import re
from pathlib import Path

import pytest
import torch

from torchrec_mtl.testing.ranks import run_on_ranks

README = (Path(__file__).parents[1] / "README.md").read_text()


def run_block(text):
    found = {}
    exec(compile(text, "README.md", "exec"), found)
    return {name: float(loss) for name, loss in found["output"]["losses"].items()}


def in_a_process_of_its_own(text):
    import os

    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    return run_block(text)


def test_the_complete_model_runs():
    (model,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "HashStore" in block]
    (losses,) = run_on_ranks(in_a_process_of_its_own, 1, model)
    assert losses.keys() == {"ctr", "ctcvr", "cvr", "value"}
    # one purchase of 9.9 in the value space, shift 0 and scale 1: the squared error of a small first guess
    assert 60 < losses["value"] < 140


def test_the_head_of_the_readme_is_a_head():
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "CalibratedHead(Head)" in block]
    found = {}
    exec(compile(block, "README.md", "exec"), found)
    from torchrec_mtl.testing.heads import assert_head_contract

    assert_head_contract(found["CalibratedHead"])


def test_the_trunk_of_the_readme_is_a_trunk():
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "MyTrunk(Trunk)" in block]
    found = {}
    exec(compile(block, "README.md", "exec"), found)
    from torchrec_mtl.testing.trunks import assert_trunk_contract

    assert_trunk_contract(found["MyTrunk"])


def test_the_balancer_of_the_readme_is_a_balancer():
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "Geometric(Balancer)" in block]
    found = {}
    exec(compile(block, "README.md", "exec"), found)
    from torchrec_mtl.testing.balancers import assert_balancer_contract

    assert_balancer_contract(found["Geometric"])
    made = found["Geometric"]([1.0, 3.0])(torch.tensor([16.0, 1.0]))
    assert float(made) == pytest.approx(2.0), "16 ** (1 / 4) * 1 ** (3 / 4)"


@pytest.mark.parametrize("name", ["run", "test"])
def test_there_are_two_commands_of_one_line(name):
    (command,) = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```", README, re.S)
    assert "\n" not in command
