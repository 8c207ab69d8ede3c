"""From encoded, looked-up and attended features to the vector that the trunk reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedTensor

from torchrec_mtl.dense import DenseEncoder
from torchrec_mtl.layout import ALL_SHARED, Layout, TaskFeatures, runs, take
from torchrec_mtl.managed import ManagedEmbeddings
from torchrec_mtl.sequences.encoder import SequenceEncoder
from torchrec_mtl.task_features import check_asked, check_not_copied, check_some_are_shared, checked_own, readers_of


class FeatureVector(nn.Module):
    """Puts all features in one order, and apart what only some towers read.

    TorchRec gives pooled embeddings in an order that depends on the sharding plan, and so on the number of ranks: here
    they get the order of the collection, so that a trunk reads the same on every plan.

    A leaf for TorchRec's tracer, so it may branch.

    Args:
        dense: For each encoded dense column the dense feature that it comes from, or its number alone.
        pooled: ``{feature: width}`` of the pooled embeddings, in order.
        sequences: ``{name: width}`` of what sequences add, in order.
        towers: Names of the towers.
        task_features: What tasks do not share.

    Shapes:
        dense: ``[B, F]``. pooled: values ``[B, D_e]``. sequences: ``[B, S]``.
        Returns ``(shared [B, D], T of [B, what tower t reads besides])``.

    Raises:
        ValueError: If two parts have one name, a feature or tower in ``task_features`` is not there, a feature is both
            for some towers only and copied for each, or all features are for some towers only.
    """

    def __init__(
        self,
        dense: Sequence[str] | int,
        pooled: Mapping[str, int],
        sequences: Mapping[str, int],
        towers: Sequence[str],
        task_features: TaskFeatures = ALL_SHARED,
    ) -> None:
        super().__init__()
        self.pooled = list(pooled)
        everything = _layout(dense, [*pooled.items(), *sequences.items()])
        whose = readers_of(task_features.only, towers)
        check_not_copied(task_features)
        parts = {tower: everything.of(names, f"Features of tower '{tower}' alone") for tower, names in whose.items()}
        apart = {column for columns in parts.values() for column in columns}
        shared = everything.but(apart)
        check_some_are_shared(shared, task_features.only)
        place = {column: number for number, column in enumerate(shared)}
        self.layout = Layout(
            {
                name: tuple(place[column] for column in columns if column in place)
                for name, columns in everything.columns.items()
                if not columns or not apart.issuperset(columns)
            },
            checked_own(task_features.own, towers),
        )
        self.out_features = len(shared)
        self.dense_features = len(everything.columns["dense"])
        self.tower_features = {tower: len(columns) for tower, columns in parts.items()}
        self.columns = _columns(everything, {"": shared, **parts}, self.layout.own)
        self._shared = runs(shared)
        self._parts = [runs(columns) for columns in parts.values()]
        self.splits = bool(apart)

    def forward(
        self, dense: Tensor, pooled: KeyedTensor | None, sequences: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Maps the parts to what all towers read, through the trunk, and what each reads besides."""
        if dense.shape[1] != self.dense_features:
            reads = self.out_features + dense.shape[1] - self.dense_features
            raise ValueError(
                f"The batch has {dense.shape[1]} dense features, but the model was built for {self.dense_features}: "
                f"what the trunk reads beside the embeddings. Build the trunk with in_features={reads}, or give the "
                f"batch {self.dense_features}."
            )
        parts = [dense]
        if pooled is not None:
            parts += self._in_order(pooled)
        if sequences is not None:
            parts.append(sequences)
        vector = torch.cat(parts, dim=1)
        if not self.splits:
            return vector, []
        return take(vector, self._shared), [take(vector, part) for part in self._parts]

    def _in_order(self, pooled: KeyedTensor) -> list[Tensor]:
        keys = pooled.keys()
        if keys == self.pooled:
            return [pooled.values()]
        found = dict(zip(keys, pooled.values().split(pooled.length_per_key(), dim=1), strict=True))
        return [found[name] for name in self.pooled]


def _columns(
    everything: Layout, readers: Mapping[str, Sequence[int]], own: Mapping[str, Mapping[str, str]]
) -> dict[str, list[tuple[str, int]]]:
    """``{reader: [(feature, width), ...]}`` in the order of the columns.

    The trunk is ``trunk`` for what all tasks share and ``trunk.<tower>`` for a tower's own copies; what a tower reads
    besides is ``towers.<tower>``.
    """
    owner = {column: name for name, columns in everything.columns.items() for column in columns}  # "dense" gives way
    whose = {copy: tower for tower, copies in own.items() for copy in copies.values()}
    found: dict[str, list[tuple[str, int]]] = {"trunk": []}
    for reader, columns in readers.items():
        for name, group in groupby(owner[column] for column in columns):
            part = f"towers.{reader}" if reader else f"trunk.{whose[name]}" if name in whose else "trunk"
            found.setdefault(part, []).append((name, len(list(group))))
    return found


def feature_vector(
    dense: Sequence[str] | int,
    embeddings: EmbeddingBagCollection | ManagedEmbeddings | None,
    sequences: SequenceEncoder | None,
    towers: Sequence[str],
    task_features: TaskFeatures = ALL_SHARED,
) -> FeatureVector:
    """The vector of a model's parts, with tables that are not sharded yet: see :class:`FeatureVector`.

    Raises:
        ValueError: If the parts do not fit ``task_features``, or an attention block that other towers read too asks
            for a feature that is for some towers only.
    """
    pooled = {} if embeddings is None else _pooled_widths(embeddings.embedding_bag_configs())
    vector = FeatureVector(dense, pooled, {} if sequences is None else sequences.widths, towers, task_features)
    if sequences is not None:
        check_asked(sequences.asks_for, [*sequences.widths], towers, task_features.only)
    return vector


def dense_columns(encoder: DenseEncoder | None, task_features: TaskFeatures) -> Sequence[str] | int | None:
    """The dense feature of each encoded column, or their number alone; ``None`` where not even that is known.

    Raises:
        ValueError: If the encoder does not fit the names.
    """
    names = list(task_features.dense)
    if encoder is None:
        return names or None
    if names and encoder.in_features != len(names):
        raise ValueError(
            f"The dense encoder reads {encoder.in_features} features, but {len(names)} are named: {names}."
        )
    return [names[source] for source in encoder.sources] if names and encoder.sources else encoder.out_features


def _pooled_widths(configs: Sequence[EmbeddingBagConfig]) -> dict[str, int]:
    """``{feature: width}``, named and ordered as TorchRec does where nothing is sharded."""
    tables_of = Counter(feature for config in configs for feature in config.feature_names)
    return {
        feature if tables_of[feature] == 1 else f"{feature}@{config.name}": config.embedding_dim
        for config in configs
        for feature in config.feature_names
    }


def _layout(dense: Sequence[str] | int, others: Sequence[tuple[str, int]]) -> Layout:
    names = [] if isinstance(dense, int) else list(dense)
    width = dense if isinstance(dense, int) else len(dense)
    kinds = ["dense", *dict.fromkeys(names), *(name for name, _ in others)]
    if twice := [name for name, count in Counter(kinds).items() if count > 1]:
        raise ValueError(
            f"The parts of the feature vector must have different names ('dense' is all dense features), but {twice} "
            f"stand for several features or sequences. Rename all but one of each."
        )
    columns = {"dense": tuple(range(width))}
    columns |= {name: tuple(i for i, each in enumerate(names) if each == name) for name in dict.fromkeys(names)}
    ends = accumulate((size for _, size in others), initial=width)
    columns |= {name: tuple(range(start, start + size)) for (name, size), start in zip(others, ends, strict=False)}
    return Layout(columns)
