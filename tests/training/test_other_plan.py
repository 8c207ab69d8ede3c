"""A checkpoint gives the same figures whatever the sharding plan, by which TorchRec orders the pooled embeddings."""

import copy

import pytest

from tests.synthetic import job, make_world, write_job
from torchrec_mtl import cli

PLANS = [
    {"shop": "table_wise", "brands": "row_wise", "user": "table_wise"},
    {"shop": "row_wise", "brands": "table_wise", "user": "row_wise"},
    {"shop": "data_parallel", "brands": "data_parallel", "user": "table_wise"},
    {"shop": "data_parallel", "brands": "row_wise", "user": "data_parallel"},
]


def content_of(root, plan):
    content = copy.deepcopy(job(root))
    content["features"]["tables"].append({"name": "user", "rows": 40, "dimension": 8})
    content["features"]["sparse"].append({"name": "user", "out_of_range": "hash"})
    content["training"] |= {"epochs": 1, "sharding": {table: {"types": [kind]} for table, kind in plan.items()}}
    return content


def test_a_checkpoint_of_one_plan_serves_on_every_other(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    make_world(tmp_path)
    expected = cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content_of(tmp_path, PLANS[0]))])
    for number, plan in enumerate(PLANS[1:]):
        path = write_job(tmp_path / f"other{number}.yaml", content_of(tmp_path, plan))
        found = cli.run(["evaluate", "--config", path])
        for task, values in expected.items():
            assert found[task] == pytest.approx(values, nan_ok=True, rel=1e-5, abs=1e-6), (plan, task)
