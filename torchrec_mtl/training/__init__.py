"""Sharding, optimizers, pipeline, checkpoints and the training loop."""

from torchrec_mtl.training.freezing import freeze
from torchrec_mtl.training.optimizers import TableOptimizer
from torchrec_mtl.training.pipeline import build_train_pipeline, check_pipelined
from torchrec_mtl.training.pretrained import load_pretrained
from torchrec_mtl.training.sharding import TableSharding
from torchrec_mtl.training.start_from import StartFrom
from torchrec_mtl.training.warm_start import warm_start

__all__ = [
    "TableOptimizer",
    "TableSharding",
    "build_train_pipeline",
    "check_pipelined",
    "StartFrom",
    "freeze",
    "warm_start",
    "load_pretrained",
]
