"""Arrow rows to a :class:`~torchrec_mtl.batch.MultiTaskBatch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl.batch import MultiTaskBatch
from torchrec_mtl.data.columns import bags, floats, is_list, is_numeric
from torchrec_mtl.data.feature import DenseFeature, SparseFeature
from torchrec_mtl.data.features import Features
from torchrec_mtl.data.funnel import Funnel
from torchrec_mtl.data.ids import IdMapping, mapping_of
from torchrec_mtl.data.sampling import NegativeSampling
from torchrec_mtl.data.steps import aligned, distinct
from torchrec_mtl.tasks.task import Task


class BatchConverter:
    """Turns rows into batches: list columns become bags, null labels become NaN, rows are padded to a full batch.

    A padding row has no id, zeros as dense features, NaN labels and weight 0: it lies outside every label space, so it
    enters no loss and no metric. (Its sampling rate is 1, of which there is a logarithm.)

    Args:
        features: Feature declarations.
        tasks: Tasks; their label and weight columns are read.
        funnel: Order of the labels and what to do with rows that break it.
        labelled: Whether the rows have labels and weights; if not, as when predicting, every label is missing.
        sampling: Which zeros are missing from the rows; each row's rate goes into ``weights[sampling.key]``. Where this
            split was not sampled but others were: ``sampling.on("test")``.

    Raises:
        ValueError: If a vocabulary cannot be read or does not fit its table; on conversion, if an id lies outside its
            table, a dense value is null without a fill, a weight is null or negative, or a rate is outside (0, 1].
    """

    def __init__(
        self,
        features: Features,
        tasks: Sequence[Task],
        funnel: Funnel | None = None,
        labelled: bool = True,
        sampling: NegativeSampling | None = None,
    ) -> None:
        self.labelled = labelled
        self.features = features
        self.tasks = tuple(tasks)
        self.labels = list(dict.fromkeys(column for task in tasks for column in task.label_columns))
        self.weights = list(dict.fromkeys(task.sample_weight for task in tasks if task.sample_weight))
        self.mappings = _mappings(features)
        self._sequence_of = {step.column_name: each.name for each in features.sequences for step in each.columns}
        self.funnel = funnel if labelled else None
        if funnel is not None:
            funnel.check_columns(self.labels)
        if sampling is not None:
            sampling.check_columns(self.labels)
        self.sampling = sampling if labelled or sampling is None else sampling.on(None)

    @property
    def sparse_columns(self) -> list[str]:
        """Columns of ids, those of sequences last."""
        return list(dict.fromkeys(feature.column_name for feature in self.features.ids))

    @property
    def sequence_keys(self) -> list[str]:
        """Keys of ``batch.sequences``: columns of the sequences, then features that share their tables."""
        steps = [column for sequence in self.features.sequences for column in sequence.columns]
        return [feature.name for feature in (*steps, *self.features.beside_sequences)]

    @property
    def dense_columns(self) -> list[str]:
        """Columns of dense features."""
        return [feature.name for feature in self.features.dense]

    @property
    def numeric_columns(self) -> list[str]:
        """Columns of numbers: dense features, labels, weights and sampling rates."""
        if not self.labelled:
            return self.dense_columns
        return [*self.dense_columns, *self.labels, *self.weights, *self.rate_columns]

    @property
    def rate_columns(self) -> list[str]:
        """The column of sampling rates, if one is read."""
        return [] if self.sampling is None else self.sampling.columns

    def check_type(self, column: str, kind: pa.DataType) -> str | None:
        """What is wrong with a column's type, as the end of a sentence ("must hold ..."); ``None`` if nothing is."""
        if column in self._sequence_of and not is_list(kind):
            return f"must hold lists, one item a step of sequence '{self._sequence_of[column]}', but has type {kind}."
        wrong = next(filter(None, (mapping.check_type(kind) for mapping in self._readers(column))), None)
        if wrong is None and column in self.numeric_columns and not is_numeric(kind):
            wrong = f"must hold numbers, but has type {kind}."
        return wrong

    def check_bound(self, column: str, bound: int, where: str) -> str | None:
        """What is wrong if the least or greatest value of a column is ``bound``; ``None`` if nothing is."""
        return next(filter(None, (mapping.check_bound(bound, where) for mapping in self._readers(column))), None)

    def _readers(self, column: str) -> list[IdMapping]:
        return [self.mappings[each.name] for each in self.features.ids if each.column_name == column]

    def __call__(self, rows: pa.RecordBatch, size: int) -> MultiTaskBatch:
        """Converts up to ``size`` rows and pads them to ``size``."""
        padding = size - rows.num_rows
        assert padding >= 0, f"{rows.num_rows} rows do not fit a batch of {size}"
        labels, weights = self._labels(rows)
        padded = {name: _padded(weight, padding, 0) for name, weight in weights.items()}
        return MultiTaskBatch(
            dense=_padded(self.dense(rows), padding, 0),
            sparse=self._bags(self.features.pooled, rows, padding),
            **self._sequences(rows, padding),
            labels={name: _padded(label, padding, float("nan")) for name, label in labels.items()},
            weights=padded | self._rates(rows, padding),
        )

    def dense(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        """Dense features ``[N, F]``."""
        columns = [_dense(feature, rows.column(feature.name)) for feature in self.features.dense]
        return np.stack(columns, axis=1) if columns else np.zeros((rows.num_rows, 0), np.float32)

    def padding(self, size: int) -> MultiTaskBatch:
        """A batch of padding alone, for a rank that has run out of rows while others have not."""
        zero = torch.zeros(size)
        return MultiTaskBatch(
            dense=torch.zeros(size, len(self.features.dense)),
            sparse=_no_ids([feature.name for feature in self.features.pooled], size),
            sequences=_no_ids(self.sequence_keys, size) if self.features.sequences else None,
            places=_no_ids(self.sequence_keys, size) if self.features.sequences else None,
            labels={name: torch.full_like(zero, float("nan")) for name in self.labels},
            weights={name: zero.clone() for name in self.weights} | self._rates(None, size),
        )

    def targets(self, rows: pa.RecordBatch) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Labels and weights of some rows as in a batch, after the funnel's policy: ``{column: [N]}`` each."""
        labels, weights = self._labels(rows)
        made = {name: _padded(column, 0, 0) for name, column in weights.items()}
        return {name: _padded(column, 0, 0) for name, column in labels.items()}, made | self._rates(rows, 0)

    @property
    def target_columns(self) -> list[str]:
        """Columns that :meth:`targets` reads."""
        return list(dict.fromkeys([*self.labels, *self.weights, *self.rate_columns]))

    def _rates(self, rows: pa.RecordBatch | None, padding: int) -> dict[str, torch.Tensor]:
        if self.sampling is None:
            return {}
        rates = np.zeros(0, np.float32) if rows is None else self.sampling.rates(rows)
        return {self.sampling.key: _padded(rates, padding, 1)}

    def _labels(self, rows: pa.RecordBatch) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        if not self.labelled:
            missing = np.full(rows.num_rows, np.nan, np.float32)
            weights = {name: np.zeros_like(missing) for name in self.weights}
            return {name: missing.copy() for name in self.labels}, weights
        labels = {name: floats(rows.column(name)) for name in self.labels}
        if self.funnel is not None:
            self.funnel.apply(labels)
        return labels, {name: _weight(name, rows.column(name)) for name in self.weights}

    def _bags(self, features: Sequence[SparseFeature], rows: pa.RecordBatch, padding: int) -> KeyedJaggedTensor:
        columns = {each.column_name: bags(rows.column(each.column_name)) for each in features}
        mappings = {id(self.mappings[each.name]): (self.mappings[each.name], each.column_name) for each in features}
        values = {key: mapping(columns[column][0]) for key, (mapping, column) in mappings.items()}  # copies share one
        return _jagged(
            [each.name for each in features],
            [values[id(self.mappings[each.name])] for each in features],
            [columns[each.column_name][1] for each in features],
            padding,
            rows.num_rows,
        )

    def _sequences(self, rows: pa.RecordBatch, padding: int) -> dict[str, KeyedJaggedTensor]:
        """``sequences`` with each different id once, in the first row, and the ``places`` of the steps' ids in it."""
        if not self.features.sequences:
            return {}
        found = []
        for sequence in self.features.sequences:
            columns, lengths = aligned(sequence, rows)
            found += [(column.name, values, lengths) for column, values in zip(sequence.columns, columns, strict=True)]
        found += [(each.name, *bags(rows.column(each.column_name))) for each in self.features.beside_sequences]
        keys = [name for name, _, _ in found]
        mapped = [(self.mappings[name], items) for name, items, _ in found]
        different, places = zip(
            *(distinct(rows_of(items), rows_of.table.rows) for rows_of, items in mapped), strict=True
        )
        counts = [np.zeros(rows.num_rows, np.int32) for _ in keys]
        for count, ids in zip(counts, different, strict=True):
            count[:1] = len(ids)
        return {
            "sequences": _jagged(keys, different, counts, padding, rows.num_rows),
            "places": _jagged(keys, places, [lengths for _, _, lengths in found], padding, rows.num_rows),
        }


def _mappings(features: Features) -> dict[str, IdMapping]:
    """``{feature: its mapping}``; features that make the same of one column have one mapping, which is made once."""
    made: dict[str, IdMapping] = {}
    found = {}
    for feature in features.ids:
        table = features.table_of(feature)
        way = (replace(feature, name="", table="", column=feature.column_name), table.rows, table.managed_collision)
        if (key := repr(way)) not in made:
            made[key] = mapping_of(feature, table)
        found[feature.name] = made[key]
    return found


def _dense(feature: DenseFeature, column: pa.Array) -> np.ndarray:
    values = floats(column)
    if np.isfinite(values).all():
        return values
    if np.isinf(values).any():
        raise ValueError(
            f"Dense feature '{feature.name}': {np.isinf(values).sum()} values in one batch are infinite or too large "
            f"for float32. Clip or compress them when the data are prepared."
        )
    missing = np.isnan(values)
    if feature.fill is None:
        raise ValueError(
            f"Dense feature '{feature.name}': {missing.sum()} null or NaN values in one batch. Declare what stands for "
            f"them, for instance fill: 0.0, or fill them when the data are prepared."
        )
    return np.where(missing, np.float32(feature.fill), values)


def _weight(name: str, column: pa.Array) -> np.ndarray:
    values = floats(column)
    if not (values >= 0).all() or np.isinf(values).any():
        wrong = values[~(values >= 0) | np.isinf(values)]
        raise ValueError(
            f"Weight column '{name}': weights must be finite numbers of at least 0, but found "
            f"{'a null or NaN' if np.isnan(wrong[0]) else wrong[0]} ({len(wrong)} such rows in one batch)."
        )
    return values


def _padded(values: np.ndarray, padding: int, with_value: float) -> torch.Tensor:
    if padding:
        values = np.concatenate([values, np.full((padding, *values.shape[1:]), with_value, np.float32)])
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _jagged(
    keys: Sequence[str], values: Sequence[np.ndarray], lengths: Sequence[np.ndarray], padding: int, rows: int
) -> KeyedJaggedTensor:
    if padding:
        lengths = [np.pad(part, (0, padding)) for part in lengths]
    return KeyedJaggedTensor(
        keys=list(keys),
        values=torch.from_numpy(np.concatenate(values) if values else np.zeros(0, np.int64)),
        lengths=torch.from_numpy(np.concatenate(lengths) if lengths else np.zeros(0, np.int32)),
        stride=rows + padding,
    )


def _no_ids(keys: Sequence[str], rows: int) -> KeyedJaggedTensor:
    return _jagged(keys, [], [np.zeros(rows, np.int32) for _ in keys], 0, rows)
