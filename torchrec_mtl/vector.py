"""From encoded, looked-up and attended features to the vector that the trunk reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedTensor

from torchrec_mtl.dense import DenseEncoder
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.layout import ALL_SHARED, Layout, TaskFeatures, runs, take
from torchrec_mtl.managed import ManagedEmbeddings
from torchrec_mtl.sequences.encoder import SequenceEncoder


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
        ValueError: If two parts have one name, or a feature or tower in ``task_features`` is not there.
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
        whose = _by_tower(task_features.only, towers)
        parts = {tower: everything.of(names, f"Features of tower '{tower}' alone") for tower, names in whose.items()}
        apart = {column for columns in parts.values() for column in columns}
        shared = everything.but(apart)
        place = {column: number for number, column in enumerate(shared)}
        self.layout = Layout(
            {
                name: tuple(place[column] for column in columns if column in place)
                for name, columns in everything.columns.items()
                if not columns or not apart.issuperset(columns)
            },
            _checked_own(task_features.own, towers),
        )
        self.out_features = len(shared)
        self.tower_features = {tower: len(columns) for tower, columns in parts.items()}
        self._shared = runs(shared)
        self._parts = [runs(columns) for columns in parts.values()]
        self.splits = bool(apart)

    def forward(
        self, dense: Tensor, pooled: KeyedTensor | None, sequences: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Maps the parts to what all towers read, through the trunk, and what each reads besides."""
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


def feature_vector(
    dense: Sequence[str] | int,
    embeddings: EmbeddingBagCollection | ManagedEmbeddings | None,
    sequences: SequenceEncoder | None,
    towers: Sequence[str],
    task_features: TaskFeatures = ALL_SHARED,
) -> FeatureVector:
    """The vector of a model's parts, with tables that are not sharded yet: see :class:`FeatureVector`."""
    pooled = {} if embeddings is None else _pooled_widths(embeddings.embedding_bag_configs())
    return FeatureVector(dense, pooled, {} if sequences is None else sequences.widths, towers, task_features)


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


def _by_tower(only: Mapping[str, Sequence[str]], towers: Sequence[str]) -> dict[str, list[str]]:
    for feature, readers in only.items():
        if not readers:
            raise ValueError(f"'{feature}' is for some towers only, but none is named. Name some of {list(towers)}.")
        for tower in readers:
            if tower not in towers:
                raise ValueError(
                    f"'{feature}' is for tower '{tower}', which is not there. Found {list(towers)}"
                    f"{did_you_mean(tower, towers)}"
                )
    return {tower: [feature for feature, readers in only.items() if tower in readers] for tower in towers}


def _checked_own(own: Mapping[str, Mapping[str, str]], towers: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    if own and set(own) != set(towers):
        raise ValueError(f"Own tables must be given for each tower {list(towers)}, but are for {list(own)}.")
    return {tower: own[tower] for tower in towers if tower in own}
