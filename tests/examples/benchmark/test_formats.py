"""The same rows, whatever the format."""

import numpy as np
import pyarrow.parquet as pq
import torch

from examples.benchmark.formats import jagged, padded, write_parquet
from examples.benchmark.ours import as_batch, make_features, make_tasks
from examples.benchmark.plain_torch import as_bags
from examples.benchmark.workload import make_rows
from tests.examples.benchmark.tiny import tiny
from torchrec_mtl.data import BatchConverter, BatchReader, ParquetSource


def test_padding_is_zero_and_ids_are_raised_by_one():
    found = padded(np.array([4, 0, 9]), np.array([2, 0, 1], np.int32), 3)
    assert found.tolist() == [[5, 1, 0], [0, 0, 0], [10, 0, 0]]


def test_plain_bags_hold_the_ids_of_the_jagged_tensor():
    rows = make_rows(tiny(), 20, np.random.default_rng(0))
    _, bags, _ = as_bags(rows)
    for (ids, offsets), feature in zip(bags, jagged(rows).to_dict().values(), strict=True):
        assert torch.equal(ids, feature.values())
        assert torch.equal(offsets, feature.offsets()[:-1])


def test_parquet_holds_the_rows_that_the_generator_makes(tmp_path):
    workload = tiny(batch_size=16)
    path = write_parquet(workload, tmp_path, row_groups=2, group_rows=32)
    assert pq.read_metadata(path).num_row_groups == 2
    converter = BatchConverter(make_features(workload), make_tasks(workload))
    batches = [batch for batch, _ in BatchReader(ParquetSource([str(path)], converter), 16).batches(0)]
    rng = np.random.default_rng(workload.seed)
    for group in (0, 1):
        whole = as_batch(workload, make_rows(workload, 32, rng))
        halves = batches[2 * group : 2 * group + 2]
        assert torch.equal(torch.cat([half.dense for half in halves]), whole.dense)
        for label, column in whole.labels.items():
            assert torch.equal(torch.cat([half.labels[label] for half in halves]), column)
        for name, feature in whole.sparse.to_dict().items():
            parts = [half.sparse[name] for half in halves]
            assert torch.equal(torch.cat([part.values() for part in parts]), feature.values())
            assert torch.equal(torch.cat([part.lengths() for part in parts]), feature.lengths())


def test_parquet_is_written_once(tmp_path):
    path = write_parquet(tiny(), tmp_path, row_groups=1, group_rows=8)
    before = path.stat().st_mtime_ns
    assert write_parquet(tiny(), tmp_path, row_groups=1, group_rows=8) == path
    assert path.stat().st_mtime_ns == before
