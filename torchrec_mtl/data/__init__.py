"""Feature declarations and the way from Parquet files to batches."""

from torchrec_mtl.data.convert import BatchConverter
from torchrec_mtl.data.feature import DenseFeature, SparseFeature
from torchrec_mtl.data.features import Features
from torchrec_mtl.data.funnel import Funnel
from torchrec_mtl.data.in_memory import TableSource, read_csv
from torchrec_mtl.data.lockstep import LockstepIterator
from torchrec_mtl.data.own_tables import own_features, with_own_tables
from torchrec_mtl.data.parquet import ParquetSource
from torchrec_mtl.data.reader import BatchReader, Rank, ReadAhead
from torchrec_mtl.data.sampling import NegativeSampling
from torchrec_mtl.data.sequence import BehaviourSequence
from torchrec_mtl.data.source import Source
from torchrec_mtl.data.table import ManagedCollision, Pretrained, Table

__all__ = [
    "Table",
    "ManagedCollision",
    "Pretrained",
    "SparseFeature",
    "DenseFeature",
    "BehaviourSequence",
    "Features",
    "with_own_tables",
    "own_features",
    "Funnel",
    "NegativeSampling",
    "BatchConverter",
    "Source",
    "ParquetSource",
    "TableSource",
    "read_csv",
    "BatchReader",
    "ReadAhead",
    "Rank",
    "LockstepIterator",
]
