"""One thread: small runs on many threads wait for each other where other programs run."""

from tests.experiments.ablation.conftest import _one_thread

__all__ = ["_one_thread"]
