"""Pipelines that start from others: kept tasks stay as they were, or the start is refused, or a note says so."""

import pytest

from tests.training.starting import make_objective, started
from torchrec_mtl.trunks import AITM, DBMTL, HTLNet


def trunk(kind, **arguments):
    return lambda width, towers: kind(width, towers, **(arguments or {"layers": [8]}))


FUNNELS = {
    "AITM": trunk(AITM),
    "DBMTL": trunk(DBMTL, bottom_layers=[8], task_layers=[8], relation_layers=[8]),
    "HTLNet": trunk(HTLNet),
}


@pytest.mark.parametrize("kind", FUNNELS)
def test_a_new_step_amid_kept_ones_is_refused(tmp_path, kind):
    pair = [make_objective("abc", FUNNELS[kind]) for _ in range(2)]
    with pytest.raises(ValueError, match=rf"{kind} passes information from tower to tower.*of which \['b'\] start ane"):
        started(tmp_path, *pair, new=["towers.b"], frozen=["tables", "trunk", "towers.a", "towers.c"])
