"""The whole network, as one plain module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.dense import DenseEncoder
from torchrec_mtl.frozen import Frozen
from torchrec_mtl.heads.heads import TaskHeads
from torchrec_mtl.layout import ALL_SHARED, TaskFeatures
from torchrec_mtl.managed import ManagedEmbeddings
from torchrec_mtl.sequences.encoder import SequenceEncoder
from torchrec_mtl.trunks.trunk import Trunk
from torchrec_mtl.vector import FeatureVector, dense_columns, feature_vector


class MultiTaskModel(nn.Module):
    """Dense encoder, embeddings, trunk and heads: from a batch to ``{name: output}``.

    A plain module: put it (or the :class:`~torchrec_mtl.objective.MultiTaskObjective` around it) into any TorchRec
    pipeline. Its forward is straight-line, so TorchRec can trace it and pipeline the embeddings.

    Args:
        embeddings: Embedding bags, sharded or not; ``D_e`` is the sum of ``embedding_dim`` over all features. ``None``
            where ``sequences`` holds every table.
        trunk: Reads ``[dense | pooled embeddings | sequences]``: ``in_features`` is ``F + D_e``, or ``D_f + D_e`` with
            an encoder, plus ``sequences.out_features``, less what some towers alone read. The pooled embeddings stand
            in the order of the collection, whatever the sharding.
        heads: As many towers as the trunk has tasks; each reads the trunk's vector of its task, after it
            ``sequences.task_features`` more where sequences have a block a tower, and then its features of
            ``task_features.only``.
        dense: Encodes the dense features, ``[B, F] -> [B, D_f]``; by default they are read as they are.
        sequences: Reads ``batch.sequences``.
        task_features: Which features tasks do not share.

    Shapes:
        batch: dense ``[B, F]``; returns ``{name: [B] or [B, K]}``.

    Raises:
        ValueError: If the widths or numbers of trunk, towers and sequences do not fit each other, no embeddings are
            given, or a feature or tower that is named is not there.
    """

    def __init__(
        self,
        embeddings: EmbeddingBagCollection | ManagedEmbeddings | None,
        trunk: Trunk,
        heads: TaskHeads,
        dense: DenseEncoder | None = None,
        sequences: SequenceEncoder | None = None,
        task_features: TaskFeatures = ALL_SHARED,
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
        self._check_tasks()
        self.vector = self._vector(dense, task_features)
        self._check_towers()
        trunk.arrange(self.vector.layout)
        trunk.bind(dict(zip(heads.tower_names, heads.towers, strict=True)))

    def _check_tasks(self) -> None:
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

    def _vector(self, encoder: DenseEncoder | None, task_features: TaskFeatures) -> FeatureVector:
        """The vector, once the trunk is known to read as many features as it has."""
        reads, towers = self.trunk.in_features, self.heads.tower_names
        dense = dense_columns(encoder, task_features)
        if dense is None and "dense" in task_features.only:
            raise ValueError("'dense' is for some towers only, but how many columns that is, is not said. Name them.")
        vector = feature_vector(1 if dense is None else dense, self.embeddings, self.sequences, towers, task_features)
        encoded = len(vector.layout.columns.get("dense", ()))
        width = vector.out_features - encoded
        if reads < width:
            raise ValueError(
                f"The trunk reads {reads} features, but the embeddings alone are {width} wide. "
                f"Build the trunk with in_features = {width} + the number of dense features."
            )
        if dense is None:  # whatever else the trunk reads is dense
            return feature_vector(reads - width, self.embeddings, self.sequences, towers, task_features)
        if reads != vector.out_features:
            what = f"there are {encoded} dense features" if encoder is None else f"the dense encoder makes {encoded}"
            raise ValueError(
                f"The trunk reads {reads} features, but {what} and the embeddings {width}. Build the trunk with "
                f"in_features={vector.out_features}."
            )
        return vector

    def _check_towers(self) -> None:
        extra = 0 if self.sequences is None else self.sequences.task_features
        for name, head in zip(self.heads.tower_names, self.heads.towers, strict=True):
            alone = self.vector.tower_features[name]
            made = self.trunk.out_features + extra + alone
            reads = getattr(head, "in_features", made)  # a head of one's own need not say
            if reads != made:
                also = (f" and its sequences {extra}" if extra else "") + (
                    f", and {alone} features are for this tower alone" if alone else ""
                )
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
        dense, pooled = self.dense(batch.dense), None
        if self.embeddings is not None:  # what is asked here is fixed when the model is built, so it can be traced
            pooled = self.embeddings(batch.sparse)  # values [B, D_e]
        if self.sequences is None:
            vector = self.vector(dense, pooled)  # [B, D], and what some towers alone read
            made = self.trunk(vector[0])  # [B, T, H]
        else:
            read = self.sequences(batch.sequences, pooled, batch.places)
            vector = self.vector(dense, pooled, read[0])
            made = self.trunk(vector[0])
            if self.sequences.task_features:
                made = torch.cat([made.expand(-1, self.trunk.num_tasks, -1), read[1]], dim=2)  # [B, T, H + S]
        return self.heads(made, vector[1]) if self.vector.splits else self.heads(made)
