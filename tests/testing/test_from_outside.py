"""The contracts serve a project that has tests of its own, in a package of the same name as ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(title):
    (found,) = re.findall(rf"```python\n# {re.escape(title)}\n(.*?)```", README, re.S)
    return found


def outside(folder, trunk):
    """A project as the README shows it; gives pytest's exit code and words."""
    for package in ("my_shop", "tests"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("")
    (folder / "my_shop" / "my_trunk.py").write_text(trunk)
    (folder / "tests" / "test_my_trunk.py").write_text(block("tests/test_my_trunk.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return found.returncode, found.stdout


def test_the_readmes_trunk_passes(tmp_path):
    code, text = outside(tmp_path, block("my_shop/my_trunk.py"))
    assert (code, "2 passed" in text) == (0, True), text


@pytest.mark.slow
def test_one_that_mixes_rows_fails_and_shows_how(tmp_path):
    mixing = block("my_shop/my_trunk.py").replace("self.gates(features) @", "self.gates(features.roll(1, 0)) @")
    assert mixing != block("my_shop/my_trunk.py")
    code, text = outside(tmp_path, mixing)
    assert code == 1, text
    assert re.search(r"FAILED tests/test_my_trunk.py::test_my_trunk -", text), text
