"""Parquet files whose rows carry their own number, so that a test sees where each row ends up."""

import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_mtl.data import BatchConverter, DenseFeature, Features, ParquetSource, SparseFeature, Table
from torchrec_mtl.tasks import BinaryTask

FEATURES = Features([Table("shop", 1000, 4)], [SparseFeature("shop")], [DenseFeature("number")])
CONVERTER = BatchConverter(FEATURES, [BinaryTask("ctr", "click")])


def numbered(start, stop):
    """Rows ``start`` to ``stop``: each number stands in a bag of 0 to 2 ids, a dense feature, a key and a label."""
    numbers = list(range(start, stop))
    return pa.table(
        {
            "shop": pa.array([[number] * (number % 3) for number in numbers], pa.list_(pa.int64())),
            "number": pa.array(numbers, pa.float64()),
            "click": pa.array([number % 2 for number in numbers], pa.int8()),
            "key": pa.array([f"row {number}" for number in numbers], pa.string()),
        }
    )


def write_files(folder, files):
    """``files`` is one list of row-group sizes a file; returns the number of rows."""
    start = 0
    for i, sizes in enumerate(files):
        with pq.ParquetWriter(folder / f"part-{i}.parquet", numbered(0, 0).schema) as writer:
            for size in sizes:
                writer.write_table(numbered(start, start + size), row_group_size=max(size, 1))
                start += size
    return start


def source_of(folder, keys=("key",)):
    return ParquetSource(str(folder), CONVERTER, keys=keys)


def numbers_of(batch):
    """The numbers of a batch's true rows; padding has no label."""
    return batch.dense[~batch.labels["click"].isnan(), 0].int().tolist()
