"""Sharding, optimizers, pipeline, checkpoints and the training loop."""

from torchrec_mtl.training.optimizers import TableOptimizer
from torchrec_mtl.training.pipeline import build_train_pipeline, check_pipelined
from torchrec_mtl.training.sharding import TableSharding

__all__ = ["TableOptimizer", "TableSharding", "build_train_pipeline", "check_pipelined"]
