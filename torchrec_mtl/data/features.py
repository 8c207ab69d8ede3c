"""All that a model reads of an impression, as it is declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType

from torchrec_mtl.data.feature import DenseFeature, SparseFeature
from torchrec_mtl.data.sequence import BehaviourSequence
from torchrec_mtl.data.table import Table
from torchrec_mtl.hints import did_you_mean


@dataclass(frozen=True)
class Features:
    """All that a model reads of an impression.

    A table that a sequence reads lies whole in TorchRec's ``EmbeddingCollection``, with every feature that shares it;
    the other tables lie in its ``EmbeddingBagCollection``.

    Args:
        tables: Embedding tables.
        sparse: Id columns, each with its table.
        dense: Numeric columns, in the order in which they stand in the batch.
        sequences: Behaviour sequences.
        own_tables: Tables of which each tower has a copy of its own beside the shared one, for trunks that keep them
            apart, such as STEM; see :mod:`torchrec_mtl.data.own_tables`.

    Raises:
        ValueError: If a name occurs twice, a feature's table is not declared or has too few rows for its boundaries, a
            table holds no feature, features that share a table do not agree what its rows stand for, a sequence asks
            for a feature that is not declared, tables of sequences differ in dimension or do not pool by "sum", or a
            table with managed collision is read by a sequence or by a feature that declares its own way from values to
            rows, or stands beside pooled tables without it; or an own table holds no feature of the impression.
    """

    tables: Sequence[Table]
    sparse: Sequence[SparseFeature]
    dense: Sequence[DenseFeature] = field(default_factory=list)
    sequences: Sequence[BehaviourSequence] = field(default_factory=list)
    own_tables: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for kind, names in (
            ("Tables", [table.name for table in self.tables]),
            ("Sequences", [sequence.name for sequence in self.sequences]),
            ("Features", [*(feature.name for feature in self.ids), *(feature.name for feature in self.dense)]),
        ):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"{kind} must have different names, but {twice} are declared more than once.")
        if not self.sparse:
            raise ValueError("At least one sparse feature is needed: the model starts from embedding tables.")
        declared = {table.name for table in self.tables}
        for feature in self.ids:
            if feature.table_name not in declared:
                hint = did_you_mean(feature.table_name, declared)
                raise ValueError(
                    f"Feature '{feature.name}': table '{feature.table_name}' is not declared. "
                    f"Found {sorted(declared)}{hint}"
                )
            self._check_rows(feature)
        if unused := declared - {feature.table_name for feature in self.ids}:
            raise ValueError(f"Tables {sorted(unused)} hold no feature: give each a feature, or remove it.")
        self._check_sequences()
        self._check_managed()
        self._check_own_tables()

    def _check_own_tables(self) -> None:
        held = {feature.table_name for feature in self.sparse}
        for table in self.own_tables:
            if table not in held:
                raise ValueError(
                    f"own_tables: no feature of the impression has a table '{table}'. Found {sorted(held)}"
                    f"{did_you_mean(table, held)}"
                )

    def _check_rows(self, feature: SparseFeature) -> None:
        table = self.table_of(feature)
        if feature.boundaries is not None and table.rows < len(feature.boundaries) + 1:
            raise ValueError(
                f"Feature '{feature.name}': {len(feature.boundaries)} boundaries make {len(feature.boundaries) + 1} "
                f"buckets, but table '{table.name}' has {table.rows} rows. Set its rows to "
                f"{len(feature.boundaries) + 1}."
            )
        first = next(other for other in self.ids if other.table_name == feature.table_name)
        if first.numbering != feature.numbering:
            raise ValueError(
                f"Features '{first.name}' and '{feature.name}' share table '{table.name}', but a row stands for "
                f"different values: '{first.name}' has {first.numbering}, '{feature.name}' has {feature.numbering}. "
                f"Declare both alike, or give each a table."
            )

    def _check_sequences(self) -> None:
        names = [feature.name for feature in self.sparse]
        for sequence in self.sequences:
            for name in (*sequence.query, *sequence.user):
                if name not in names:
                    raise ValueError(
                        f"Sequence '{sequence.name}' reads '{name}' of the impression, which is no sparse feature. "
                        f"Found {names}{did_you_mean(name, names)}"
                    )
        tables = [table for table in self.tables if table.name in self.sequence_tables]
        dimensions = {table.name: table.dimension for table in tables}
        if len({*dimensions.values()}) > 1:
            raise ValueError(
                f"Tables that behaviour sequences read must have one dimension (TorchRec keeps them in one "
                f"EmbeddingCollection), but found {dimensions}."
            )
        if means := [table.name for table in tables if table.pooling == "mean"]:
            raise ValueError(
                f"Tables {means} are read by behaviour sequences, and features of the impression that share them are "
                f"summed. Set their pooling to sum; a sequence's own mean is the attention block MeanPooling."
            )

    def _check_managed(self) -> None:
        managed = self.managed_tables
        if both := [name for name in managed if name in self.sequence_tables]:
            raise ValueError(
                f"Tables {both} are read by behaviour sequences, for which managed_collision is not offered. Leave it "
                f"out there, and declare their features with out_of_range: hash or a vocabulary."
            )
        for feature in self.ids:
            own = feature.out_of_range != "error" or feature.vocabulary is not None or feature.boundaries is not None
            if own and feature.table_name in managed:
                raise ValueError(
                    f"Feature '{feature.name}': table '{feature.table_name}' has managed_collision, which maps every "
                    f"value to a row. Leave out the feature's out_of_range, vocabulary and boundaries, or the table's "
                    f"managed_collision."
                )
        pooled = [table.name for table in self.tables if table.name not in self.sequence_tables]
        if managed and (others := [name for name in pooled if name not in managed]):
            raise ValueError(
                f"Tables {managed} have managed_collision, but {others} do not: they lie in one collection of "
                f"TorchRec's, so all or none must have it. A table that has more rows than ids loses nothing by it."
            )

    @property
    def managed_tables(self) -> list[str]:
        """Names of the tables with managed collision."""
        return [table.name for table in self.tables if table.managed_collision is not None]

    def table_of(self, feature: SparseFeature) -> Table:
        """The table that holds a feature."""
        return next(table for table in self.tables if table.name == feature.table_name)

    @cached_property
    def ids(self) -> list[SparseFeature]:
        """Every column of ids: of the impression, and of its sequences."""
        return [*self.sparse, *(column for sequence in self.sequences for column in sequence.columns)]

    @cached_property
    def sequence_tables(self) -> set[str]:
        """Names of the tables that sequences read."""
        return {column.table_name for sequence in self.sequences for column in sequence.columns}

    @cached_property
    def pooled(self) -> list[SparseFeature]:
        """Features of the impression that are looked up as bags."""
        return [feature for feature in self.sparse if feature.table_name not in self.sequence_tables]

    @cached_property
    def beside_sequences(self) -> list[SparseFeature]:
        """Features of the impression that share a table with a sequence."""
        return [feature for feature in self.sparse if feature.table_name in self.sequence_tables]

    @property
    def width(self) -> int:
        """Width of the feature vector ``D``: dense features as they are, and pooled embeddings."""
        return len(self.dense) + self.embedding_width

    @property
    def embedding_width(self) -> int:
        """Width of the pooled embeddings alone, ``D_e``."""
        return sum(self.table_of(feature).dimension for feature in self.pooled)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """TorchRec's configuration of every table that is pooled."""
        return [
            EmbeddingBagConfig(
                **table.arguments,
                feature_names=[feature.name for feature in self.pooled if feature.table_name == table.name],
                pooling=PoolingType.SUM if table.pooling == "sum" else PoolingType.MEAN,
            )
            for table in self.tables
            if table.name not in self.sequence_tables
        ]

    def embedding_configs(self) -> list[EmbeddingConfig]:
        """TorchRec's configuration of every table that a sequence reads."""
        return [
            EmbeddingConfig(
                **table.arguments,
                feature_names=[feature.name for feature in self.ids if feature.table_name == table.name],
            )
            for table in self.tables
            if table.name in self.sequence_tables
        ]
