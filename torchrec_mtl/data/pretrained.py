"""Vectors that rows of a table start with, from a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_mtl.data.columns import integers
from torchrec_mtl.data.feature import SparseFeature
from torchrec_mtl.data.features import Features
from torchrec_mtl.data.files import explained, find_files
from torchrec_mtl.data.ids import IdMapping, mapping_of
from torchrec_mtl.data.table import Table


class Vectors(NamedTuple):
    """Rows of a table ``[V]`` and what they start with ``[V, D]``."""

    rows: np.ndarray
    values: np.ndarray


@dataclass
class Coverage:
    """How a file of vectors and a table fit.

    Args:
        given: Rows of the table that have got a vector.
        unknown: Vectors of the file whose value has no row.
    """

    given: int = 0
    unknown: int = 0


def read_vectors(features: Features, table: Table) -> Iterator[tuple[Vectors, Coverage]]:
    """The vectors that a table declares, part by part; with what is known of the coverage so far.

    Args:
        features: What the table's rows stand for.
        table: The table.

    Raises:
        ValueError: If the file lacks a column, a vector is missing, has another width than the table or is not finite,
            a value occurs twice, or the table's rows are not told by a vocabulary or their own numbers.
    """
    assert table.pretrained is not None
    feature = next(each for each in features.ids if each.table_name == table.name)
    _check_way(feature, table)
    mapping = mapping_of(feature, table)
    coverage, seen = Coverage(), np.zeros(table.rows, bool)
    for path in find_files(str(table.pretrained.path)):
        with explained(path), pq.ParquetFile(path) as file:
            _check_columns(file.schema_arrow, table, mapping, path)
            columns = [table.pretrained.values, table.pretrained.vectors]
            for part in file.iter_batches(65_536, columns=columns):
                yield _part(part, table, mapping, seen, coverage, path), coverage


def _part(
    part: pa.RecordBatch, table: Table, mapping: IdMapping, seen: np.ndarray, coverage: Coverage, path: str
) -> Vectors:
    assert table.pretrained is not None
    where = f"Table '{table.name}': {path}"
    values = part[table.pretrained.values]
    if values.null_count:
        raise ValueError(f"{where} holds a null in column '{table.pretrained.values}': give each vector its value.")
    vectors = _matrix(part[table.pretrained.vectors], table, where)
    rows, known = _rows(values, table, mapping)
    coverage.unknown += int((~known).sum())
    rows, vectors = rows[known], vectors[known]
    different, first, counts = np.unique(rows, return_index=True, return_counts=True)
    twice = different[(counts > 1) | seen[different]]
    if len(twice):
        place = int(np.flatnonzero(known)[first[np.searchsorted(different, twice[0])]])
        raise ValueError(f"{where} gives {values[place].as_py()!r} more than one vector. Leave one.")
    seen[rows] = True
    coverage.given += len(rows)
    return Vectors(rows, vectors)


def _rows(values: pa.Array, table: Table, mapping: IdMapping) -> tuple[np.ndarray, np.ndarray]:
    if mapping.feature.vocabulary is not None:
        rows = mapping(values)
        return rows, rows > 0  # row 0 stands for every unknown value
    ids = integers(values)
    return ids, (ids >= 0) & (ids < table.rows)


def _matrix(column: Any, table: Table, where: str) -> np.ndarray:
    missing = column.null_count
    fixed = pa.types.is_fixed_size_list(column.type)
    lengths = np.full(len(column), column.type.list_size) if fixed else np.diff(column.offsets.to_numpy())
    wrong = np.flatnonzero(lengths != table.dimension)
    if missing or len(wrong):
        found = f"{missing} nulls" if missing else f"one of width {lengths[wrong[0]]}"
        raise ValueError(f"{where} must give vectors of the table's dimension {table.dimension}, but found {found}.")
    numbers = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, table.dimension)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{where} holds a vector with a null, NaN or infinite number. Leave such rows out.")
    return numbers


def _check_way(feature: SparseFeature, table: Table) -> None:
    if table.managed_collision is not None or feature.boundaries is not None or feature.out_of_range == "hash":
        way = "managed_collision" if table.managed_collision is not None else feature.numbering
        raise ValueError(
            f"Table '{table.name}': pretrained vectors are matched through a vocabulary or by the number of the row, "
            f"but its feature '{feature.name}' has {way}. Give the feature a vocabulary (torchrec-mtl vocab makes one)."
        )


def _check_columns(schema: pa.Schema, table: Table, mapping: IdMapping, path: str) -> None:
    assert table.pretrained is not None
    where, given = f"Table '{table.name}': {path}", table.pretrained
    for name in (given.values, given.vectors):
        if name not in schema.names:
            raise ValueError(f"{where} has no column '{name}'. Found {schema.names}; name it in pretrained.")
    kind = schema.field(given.vectors).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise ValueError(f"{where}: column '{given.vectors}' must hold lists of numbers, but has type {kind}.")
    if problem := mapping.check_type(schema.field(given.values).type):
        raise ValueError(f"{where}: column '{given.values}' {problem}")
