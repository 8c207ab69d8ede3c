"""Forces a way to compute many networks of one shape."""

from contextlib import contextmanager

import pytest

WAYS = ("batched", "looped", "written_out")


@contextmanager
def forced(way):
    """Within it, products are batched, made one layer after another, or by the backward pass that is written out."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("each_linear", "each_network", "experts"):
            patch.setattr(f"torchrec_mtl.{place}.batched_is_faster", lambda x, widest: way == "batched")
        patch.setattr("torchrec_mtl.heads.tower.stacking_pays", lambda x: True)
        patch.setattr("torchrec_mtl.each_network.one_by_one", lambda x, weights: way == "written_out")
        yield
