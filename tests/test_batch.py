"""The record: its rows agree, and it moves as one."""

import dataclasses
import re

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from torchrec_mtl import MultiTaskBatch

META = torch.device("meta")


def jagged(rows, key="shop"):
    return KeyedJaggedTensor([key], torch.arange(rows), lengths=torch.ones(rows, dtype=torch.int32), stride=rows)


def parts(rows=3):
    return {
        "dense": torch.zeros(rows, 2),
        "sparse": jagged(rows),
        "labels": {"click": torch.zeros(rows), "purchase": torch.zeros(rows)},
        "weights": {"rate": torch.ones(rows)},
        "sequences": jagged(rows, "history"),
        "places": jagged(rows, "history"),
    }


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"dense": torch.zeros(4, 2)}, "'dense': 4, 'sparse': 3"),
        ({"sparse": jagged(4)}, "'dense': 3, 'sparse': 4"),
        ({"sequences": jagged(2, "history")}, "'sequences': 2"),
        ({"places": jagged(2, "history")}, "'places': 2"),
        ({"labels": {"click": torch.zeros(3), "purchase": torch.zeros(5)}}, "\"labels['purchase']\": 5"),
        ({"weights": {"rate": torch.zeros(1)}}, "\"weights['rate']\": 1"),
    ],
)
def test_parts_that_disagree_are_named(part, found):
    with pytest.raises(ValueError, match="must have the same number of rows, but found .*" + re.escape(found)):
        MultiTaskBatch(**(parts() | part))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_the_number_of_rows(rows):
    assert MultiTaskBatch(**parts(rows)).num_rows == rows


def test_labels_weights_and_sequences_are_optional_and_not_shared():
    first, second = (MultiTaskBatch(dense=torch.zeros(2, 0), sparse=jagged(2)) for _ in range(2))
    assert (first.labels, first.weights, first.sequences) == ({}, {}, None)
    first.labels["click"] = torch.zeros(2)
    assert second.labels == {}


@pytest.mark.parametrize("with_sequences", [True, False])
@pytest.mark.parametrize("non_blocking", [True, False])
def test_to_moves_every_part(with_sequences, non_blocking):
    given = parts() | ({} if with_sequences else {"sequences": None, "places": None})
    moved = MultiTaskBatch(**given).to(META, non_blocking=non_blocking)
    assert moved.num_rows == 3
    assert moved.dense.device == moved.sparse.values().device == META
    assert moved.labels.keys() == {"click", "purchase"}
    assert {column.device for column in (*moved.labels.values(), *moved.weights.values())} == {META}
    assert moved.weights.keys() == {"rate"}
    assert (moved.sequences is not None) == with_sequences
    if with_sequences:
        assert moved.sequences.keys() == ["history"]
        assert moved.sequences.values().device == moved.places.values().device == META


def test_to_keeps_the_values():
    batch = MultiTaskBatch(**parts())
    copied = batch.to(torch.device("cpu"))
    assert torch.equal(copied.dense, batch.dense)
    assert torch.equal(copied.sparse.values(), torch.arange(3))
    assert torch.equal(copied.weights["rate"], torch.ones(3))


class Recorder(torch.Tensor):
    """Remembers which tensors a stream was recorded on: CPU tensors refuse to."""

    seen = []  # noqa: RUF012

    def record_stream(self, stream):
        self.seen.append((self.column, stream))


def recorder(name, *shape):
    tensor = torch.zeros(shape).as_subclass(Recorder)
    tensor.column = name
    return tensor


def test_a_stream_is_recorded_on_every_field(monkeypatch):
    """A part left out would be freed while a kernel still reads it."""
    Recorder.seen.clear()
    monkeypatch.setattr(
        KeyedJaggedTensor, "record_stream", lambda self, stream: Recorder.seen.append((self.keys()[0], stream))
    )
    MultiTaskBatch(
        dense=recorder("dense", 3, 2),
        sparse=jagged(3),
        labels={"click": recorder("click", 3), "purchase": recorder("purchase", 3)},
        weights={"rate": recorder("rate", 3)},
        sequences=jagged(3, "history"),
        places=jagged(3, "place"),
    ).record_stream("a stream")
    names = ["click", "dense", "history", "place", "purchase", "rate", "shop"]
    assert sorted(Recorder.seen) == [(name, "a stream") for name in names]


def test_the_record_is_what_torchrec_pipelines():
    assert issubclass(MultiTaskBatch, Pipelineable)
    fields = [field.name for field in dataclasses.fields(MultiTaskBatch)]
    assert fields == ["dense", "sparse", "labels", "weights", "sequences", "places"]
