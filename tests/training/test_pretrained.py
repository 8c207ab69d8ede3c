"""Vectors from a file land in the shards that hold their rows, on any number of ranks."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.training.test_freezing import FEATURES, flat, make_objective
from torchrec_mtl.data.table import Pretrained
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.pipeline import build_train_pipeline
from torchrec_mtl.training.pretrained import load_pretrained
from torchrec_mtl.training.sharding import TableSharding

GIVEN = [0, 3, 10, 11, 19]


def vector(row):
    return [row + 0.25 * column for column in range(4)]


def load(path, kinds):
    tables = [dataclasses.replace(FEATURES.tables[0], pretrained=Pretrained(str(path))), FEATURES.tables[1]]
    found = {}
    with distributed():
        for kind in kinds:
            constraints = {"shop": TableSharding([kind], 4 if "column" in kind else None)}
            pipeline = build_train_pipeline(make_objective(), torch.optim.Adam, constraints=constraints)
            before = pieces(pipeline)
            coverage = load_pretrained(pipeline, dataclasses.replace(FEATURES, tables=tables))
            found[kind] = before, pieces(pipeline), coverage, flat(pipeline._model)
    return found


def pieces(pipeline):
    table = pipeline._model.state_dict()["model.embeddings.embedding_bags.shop.weight"]
    if not hasattr(table, "local_shards"):
        return [((0, 0), table.detach().clone())]
    return [(tuple(each.metadata.shard_offsets), each.tensor.clone()) for each in table.local_shards()]


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_row_gets_its_vector(tmp_path, ranks):
    rows = [*GIVEN, 99]
    pq.write_table(pa.table({"value": rows, "vector": [vector(row) for row in rows]}), tmp_path / "v.parquet")
    kinds = ["row_wise", "table_wise", "data_parallel", "column_wise"]
    ranks_found = run_on_ranks(load, ranks, tmp_path / "v.parquet", kinds)
    for kind in kinds:
        seen = torch.zeros(20)
        for found in ranks_found:
            before, after, coverage, _ = found[kind]
            assert {name: (each.given, each.unknown) for name, each in coverage.items()} == {"shop": (5, 1)}
            for (offsets, was), (_, now) in zip(before, after, strict=True):
                for i in range(len(now)):
                    row = offsets[0] + i
                    seen[row] = 1
                    expected = torch.tensor(vector(row))[offsets[1] :][: now.shape[1]] if row in GIVEN else was[i]
                    assert torch.equal(now[i], expected), (kind, row)
        assert seen.all(), "all rows together are the table"
