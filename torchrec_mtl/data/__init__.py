"""Feature declarations and the way from Parquet files to batches."""

from torchrec_mtl.data.convert import BatchConverter
from torchrec_mtl.data.features import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.data.funnel import Funnel
from torchrec_mtl.data.lockstep import LockstepIterator
from torchrec_mtl.data.parquet import ParquetReader, ParquetSource, Rank

__all__ = [
    "Table",
    "SparseFeature",
    "DenseFeature",
    "Features",
    "Funnel",
    "BatchConverter",
    "ParquetSource",
    "ParquetReader",
    "Rank",
    "LockstepIterator",
]
