"""From paths to a split, by the kind of file."""

from __future__ import annotations

from collections.abc import Sequence

from torchrec_mtl.data.convert import BatchConverter
from torchrec_mtl.data.in_memory import read_csv
from torchrec_mtl.data.parquet import ParquetSource
from torchrec_mtl.data.source import Source


def open_source(paths: str | Sequence[str], converter: BatchConverter, keys: Sequence[str] = ()) -> Source:
    """A split from Parquet, or from CSV where the paths end in ``.csv``.

    Args:
        paths: Files, directories of Parquet files or globs, local or as addresses.
        converter: Says which columns are read, and as what.
        keys: Columns carried along as they are.

    Raises:
        ValueError: If nothing is found, files cannot be read or are of both kinds, or a column does not fit.
    """
    names = [paths] if isinstance(paths, str) else list(paths)
    csv = [name for name in names if name.endswith(".csv")]
    if csv and len(csv) < len(names):
        raise ValueError(f"A split is read from Parquet or from CSV, but found both: {names}.")
    return (read_csv if csv else ParquetSource)(names, converter, keys)
