"""From checkpoints to predictions."""

from torchrec_mtl.serving.predictions import write_predictions

__all__ = ["write_predictions"]
