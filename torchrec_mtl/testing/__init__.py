"""What every trunk, head, link, balancer, task and sequence block must do, also one that lives in another package.

A class of your own is tested by one import::

    from torchrec_mtl.testing import assert_trunk_contract, assert_trunk_trains_alike_on_two_ranks

    def test_my_trunk():
        assert_trunk_contract(MyTrunk, layers=[16])

    def test_my_trunk_on_two_ranks():
        assert_trunk_trains_alike_on_two_ranks(MyTrunk, layers=[16])

It needs pytest and hypothesis: ``pip install 'torchrec_mtl[testing]'``. The checks are sentences: what their names say
of the module that they are given.
"""

import pkgutil

try:
    import hypothesis  # noqa: F401
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"torchrec_mtl.testing needs pytest and hypothesis, but {error.name} is not installed: "
        f"pip install 'torchrec_mtl[testing]'."
    ) from None

# before the imports: then failures show the values
pytest.register_assert_rewrite(*(f"{__name__}.{each.name}" for each in pkgutil.iter_modules(__path__)))

from torchrec_mtl.testing.balancers import assert_balancer_contract
from torchrec_mtl.testing.heads import assert_head_contract
from torchrec_mtl.testing.links import assert_link_contract
from torchrec_mtl.testing.sequences import assert_attention_contract
from torchrec_mtl.testing.tasks import assert_task_contract
from torchrec_mtl.testing.trunk_ranks import assert_trunk_trains_alike_on_two_ranks
from torchrec_mtl.testing.trunks import assert_trunk_contract

__all__ = [
    "assert_trunk_contract",
    "assert_trunk_trains_alike_on_two_ranks",
    "assert_head_contract",
    "assert_link_contract",
    "assert_attention_contract",
    "assert_task_contract",
    "assert_balancer_contract",
]
