"""Mean pooling beside other sharding types, which TorchRec 1.8 gets wrong."""

from __future__ import annotations

from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_configs import PoolingType


def correct_mean_pooling(model: nn.Module) -> None:
    """Keeps the means of tables that are sharded by rows to these tables.

    TorchRec sums bags of such tables and divides by their lengths afterwards, and with them the bags of all tables that
    are sharded otherwise: their sums become means, and their means are divided twice. It knows which to leave alone by
    a list, on which it puts the summed tables that are sharded by rows, and no others.

    Args:
        model: A model that TorchRec has sharded, before its first batch.
    """
    for module in model.modules():
        if isinstance(module, ShardedEmbeddingBagCollection):
            pooled = module._pooling_type_to_rs_features
            divided = set(pooled.get(PoolingType.MEAN.value, ()))
            features = (name for config in module._embedding_bag_configs for name in config.feature_names)
            pooled[PoolingType.SUM.value] = [name for name in features if name not in divided]
