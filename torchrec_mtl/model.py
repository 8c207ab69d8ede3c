"""The whole network, as one plain module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.dense import DenseEncoder
from torchrec_mtl.frozen import Frozen
from torchrec_mtl.heads.heads import TaskHeads
from torchrec_mtl.managed import ManagedEmbeddings
from torchrec_mtl.sequences.encoder import SequenceEncoder
from torchrec_mtl.trunks.trunk import Trunk


class MultiTaskModel(nn.Module):
    """Dense encoder, embeddings, trunk and heads: from a batch to ``{name: output}``.

    A plain module: put it (or the :class:`~torchrec_mtl.objective.MultiTaskObjective` around it) into any TorchRec
    pipeline. Its forward is straight-line, so TorchRec can trace it and pipeline the embeddings.

    Args:
        embeddings: Embedding bags, sharded or not; ``D_e`` is the sum of ``embedding_dim`` over all features. ``None``
            where ``sequences`` holds every table.
        trunk: Reads ``[dense | pooled embeddings | sequences]``: ``in_features`` is ``F + D_e``, or ``D_f + D_e`` with
            an encoder, plus ``sequences.out_features``.
        heads: As many towers as the trunk has tasks; each reads the trunk's vector of its task, and after it
            ``sequences.task_features`` more where sequences have a block a tower.
        dense: Encodes the dense features, ``[B, F] -> [B, D_f]``; by default they are read as they are.
        sequences: Reads ``batch.sequences``.

    Shapes:
        batch: dense ``[B, F]``; returns ``{name: [B] or [B, K]}``.

    Raises:
        ValueError: If the widths or numbers of trunk, towers and sequences do not fit each other, or no embeddings are
            given.
    """

    def __init__(
        self,
        embeddings: EmbeddingBagCollection | ManagedEmbeddings | None,
        trunk: Trunk,
        heads: TaskHeads,
        dense: DenseEncoder | None = None,
        sequences: SequenceEncoder | None = None,
    ) -> None:
        super().__init__()
        if embeddings is None and sequences is None:
            raise ValueError("MultiTaskModel needs embeddings, sequences or both, but found neither.")
        self.dense = nn.Identity() if dense is None else dense
        self.embeddings = embeddings
        self.trunk = trunk
        self.heads = heads
        self.sequences = sequences
        self.frozen = Frozen()
        self._check_trunk(dense)
        self._check_towers()
        trunk.bind(dict(zip(heads.tower_names, heads.towers, strict=True)))

    def _check_trunk(self, dense: DenseEncoder | None) -> None:
        towers, trunk, sequences = self.heads.tower_names, self.trunk, self.sequences
        for what, number in (
            ("towers", len(towers)),
            ("attention blocks a sequence", None if sequences is None else sequences.num_tasks),
        ):
            if number is not None and trunk.num_tasks != number:
                raise ValueError(
                    f"The trunk makes vectors for {trunk.num_tasks} tasks, but there are {number} {what}: "
                    f"{list(towers)}. Build the trunk with num_tasks={number}."
                )
        configs = [] if self.embeddings is None else self.embeddings.embedding_bag_configs()
        width = sum(config.embedding_dim * len(config.feature_names) for config in configs)
        width += 0 if sequences is None else sequences.out_features
        if trunk.in_features < width:
            raise ValueError(
                f"The trunk reads {trunk.in_features} features, but the embeddings alone are {width} wide. "
                f"Build the trunk with in_features = {width} + the number of dense features."
            )
        if dense is not None and trunk.in_features != dense.out_features + width:
            raise ValueError(
                f"The trunk reads {trunk.in_features} features, but the dense encoder makes {dense.out_features} and "
                f"the embeddings {width}. Build the trunk with in_features={dense.out_features + width}."
            )

    def _check_towers(self) -> None:
        extra = 0 if self.sequences is None else self.sequences.task_features
        made = self.trunk.out_features + extra
        for name, head in zip(self.heads.tower_names, self.heads.towers, strict=True):
            reads = getattr(head, "in_features", made)  # a head of one's own need not say
            if reads != made:
                also = f" and its sequences {extra}" if extra else ""
                raise ValueError(
                    f"Tower '{name}' reads {reads} features, but the trunk makes {self.trunk.out_features} for each "
                    f"task{also}. Build the tower with in_features={made}."
                )

    def train(self, mode: bool = True) -> MultiTaskModel:
        """Sets the mode of all that is not frozen."""
        super().train(mode)
        self.frozen.evaluate()
        return self

    def forward(self, batch: MultiTaskBatch) -> dict[str, Tensor]:
        """Maps a batch to ``{name: output}``."""
        parts = [self.dense(batch.dense)]
        pooled = None
        if self.embeddings is not None:  # what is asked here is fixed when the model is built, so it can be traced
            pooled = self.embeddings(batch.sparse)
            parts.append(pooled.values())  # [B, D_e]
        if self.sequences is None:
            return self.heads(self.trunk(torch.cat(parts, dim=1)))
        read = self.sequences(batch.sequences, pooled, batch.places)
        shared = self.trunk(torch.cat([*parts, read[0]], dim=1))  # [B, T, H]
        if self.sequences.task_features:
            shared = torch.cat([shared.expand(-1, self.trunk.num_tasks, -1), read[1]], dim=2)  # [B, T, H + S]
        return self.heads(shared)
