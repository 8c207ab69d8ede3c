"""The same rows as a KeyedJaggedTensor, padded, and as a Parquet file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from examples.benchmark.workload import Rows, Workload, make_rows

ROW_GROUP = 65_536


def jagged(rows: Rows) -> KeyedJaggedTensor:
    """All ids of the rows, single-valued features first."""
    count = len(rows.dense)
    values = [*rows.ids.values(), *(values for values, _ in rows.bags.values())]
    lengths = [*(np.ones(count, np.int32) for _ in rows.ids), *(lengths for _, lengths in rows.bags.values())]
    return KeyedJaggedTensor(
        [*rows.ids, *rows.bags],
        torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        stride=count,
    )


def padded(values: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """A bag as ``[B, width]``: ids are raised by 1, since 0 is the padding."""
    filled = np.arange(width) < lengths[:, None]
    matrix = np.zeros((len(lengths), width), np.int64)
    matrix[filled] = values + 1
    return matrix


def as_table(workload: Workload, rows: Rows) -> pa.Table:
    """The rows as columns: integers, lists, floats and labels."""
    columns: dict[str, pa.Array] = {name: pa.array(ids, pa.int32()) for name, ids in rows.ids.items()}
    for name, (values, lengths) in rows.bags.items():
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int32)]).astype(np.int32)
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32()))
    columns |= {f"dense_{i}": pa.array(rows.dense[:, i]) for i in range(workload.dense)}
    columns |= {name: pa.array(rows.labels[:, i].astype(np.int8)) for i, name in enumerate(workload.labels)}
    return pa.table(columns)


def write_parquet(workload: Workload, directory: Path, row_groups: int, group_rows: int = ROW_GROUP) -> Path:
    """Writes the workload's rows, or finds them already written, and returns the file."""
    path = directory / f"rows-{workload.seed}-{row_groups}x{group_rows}.parquet"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")  # what bears the name is whole
    rng = np.random.default_rng(workload.seed)
    writer = None
    for _ in range(row_groups):
        table = as_table(workload, make_rows(workload, group_rows, rng))
        writer = writer or pq.ParquetWriter(draft, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None, "at least one row group"
    writer.close()
    draft.rename(path)
    return path
