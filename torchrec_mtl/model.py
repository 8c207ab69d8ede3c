"""The whole network, as one plain module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.dense import DenseEncoder
from torchrec_mtl.heads.heads import TaskHeads
from torchrec_mtl.trunks.trunk import Trunk


class MultiTaskModel(nn.Module):
    """Dense encoder, embeddings, trunk and heads: from a batch to ``{name: output}``.

    A plain module: put it (or the :class:`~torchrec_mtl.objective.MultiTaskObjective` around it) into any TorchRec
    pipeline. Its forward is straight-line, so TorchRec can trace it and pipeline the embeddings.

    Args:
        embeddings: Embedding bags, sharded or not; ``D_e`` is the sum of ``embedding_dim`` over all features.
        trunk: Reads ``[dense | pooled embeddings]``, so its ``in_features`` is ``F + D_e``, or ``D_f + D_e`` with an
            encoder.
        heads: As many towers as the trunk has tasks.
        dense: Encodes the dense features, ``[B, F] -> [B, D_f]``; by default they are read as they are.

    Shapes:
        batch: dense ``[B, F]``; returns ``{name: [B] or [B, K]}``.

    Raises:
        ValueError: If the trunk's widths do not fit the embeddings or the towers.
    """

    def __init__(
        self, embeddings: EmbeddingBagCollection, trunk: Trunk, heads: TaskHeads, dense: DenseEncoder | None = None
    ) -> None:
        super().__init__()
        if trunk.num_tasks != len(heads.tower_names):
            raise ValueError(
                f"The trunk makes vectors for {trunk.num_tasks} tasks, but there are {len(heads.tower_names)} towers: "
                f"{list(heads.tower_names)}. Build the trunk with num_tasks={len(heads.tower_names)}."
            )
        width = sum(config.embedding_dim * len(config.feature_names) for config in embeddings.embedding_bag_configs())
        if trunk.in_features < width:
            raise ValueError(
                f"The trunk reads {trunk.in_features} features, but the embeddings alone are {width} wide. "
                f"Build the trunk with in_features = {width} + the number of dense features."
            )
        for name, head in zip(heads.tower_names, heads.towers, strict=True):
            reads = getattr(head, "in_features", trunk.out_features)  # a head of one's own need not say
            if reads != trunk.out_features:
                raise ValueError(
                    f"Tower '{name}' reads {reads} features, but the trunk makes {trunk.out_features} for each task. "
                    f"Build the tower with in_features={trunk.out_features}."
                )
        if dense is not None and trunk.in_features != dense.out_features + width:
            raise ValueError(
                f"The trunk reads {trunk.in_features} features, but the dense encoder makes {dense.out_features} and "
                f"the embeddings {width}. Build the trunk with in_features={dense.out_features + width}."
            )
        self.dense = nn.Identity() if dense is None else dense
        self.embeddings = embeddings
        self.trunk = trunk
        self.heads = heads

    def forward(self, batch: MultiTaskBatch) -> dict[str, Tensor]:
        """Maps a batch to ``{name: output}``."""
        pooled = self.embeddings(batch.sparse).values()  # [B, D_e]
        features = torch.cat([self.dense(batch.dense), pooled], dim=1)  # [B, D]
        return self.heads(self.trunk(features))
