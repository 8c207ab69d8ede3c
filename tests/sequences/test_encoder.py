"""Lookup and attention together: what trunk and towers read of the sequences of a batch."""

import re
from dataclasses import replace

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_mtl.sequences import (
    DUPN,
    MeanPooling,
    SequenceBlock,
    SequenceColumns,
    SequenceEncoder,
    SequenceWidths,
    TargetAttention,
)

KEYS = {"past_item": "item", "past_gap": "gap", "item": "item"}
COLUMNS = SequenceColumns(["past_item"], ["past_gap"], ["item"], ["user"], max_length=4)
WIDTHS = SequenceWidths(items=4, query=4, properties=4, user=2)
STEPS = [[5, 5, 2], [], [2, 7, 5, 2]]
GAPS = [[0, 1, 1], [], [2, 2, 0, 1]]
ITEMS = [[5], [3], []]


def make_encoder(sequences):
    torch.manual_seed(0)
    tables = [
        EmbeddingConfig(
            name=name,
            num_embeddings=rows,
            embedding_dim=4,
            feature_names=[key for key, table in KEYS.items() if table == name],
        )
        for name, rows in (("item", 10), ("gap", 3))
    ]
    return SequenceEncoder(EmbeddingCollection(tables=tables), sequences)


def make_blocks():
    torch.manual_seed(1)
    return {
        "a": SequenceBlock(COLUMNS, TargetAttention(WIDTHS)),
        "b": SequenceBlock(COLUMNS, [DUPN(WIDTHS), DUPN(WIDTHS)]),
        "c": SequenceBlock(replace(COLUMNS, properties=[], query=[], user=[]), MeanPooling(SequenceWidths(4, 0))),
    }


def jagged(*columns):
    rows = [row for column in columns for row in column]
    return KeyedJaggedTensor(
        list(KEYS),
        torch.tensor([value for row in rows for value in row]),
        lengths=torch.tensor([len(row) for row in rows]),
        stride=len(columns[0]),
    )


def users():
    return KeyedTensor(["user"], [2], torch.arange(6.0).reshape(3, 2))


def test_parts_stand_in_the_declared_order():
    encoder = make_encoder(make_blocks())
    features, per_task = encoder(jagged(STEPS, GAPS, ITEMS), users())
    assert features.shape == (3, encoder.out_features) == (3, 4 + 4 + 4)
    assert per_task.shape == (3, 2, encoder.task_features) == (3, 2, 4)
    assert encoder.num_tasks == 2
    table = encoder.embeddings.embeddings["item"].weight
    torch.testing.assert_close(features[:, :4], torch.stack([table[5], table[3], torch.zeros(4)]))
    means = [table[[5, 5, 2]].mean(0), torch.zeros(4), table[[2, 7, 5, 2]].mean(0)]
    torch.testing.assert_close(features[:, 8:], torch.stack(means))
    assert torch.equal(per_task[1], torch.zeros(2, 4)), "no step"
    assert not torch.allclose(per_task[0, 0], per_task[0, 1]), "a block of its own for each task"


def test_a_candidates_bag_is_summed():
    encoder = make_encoder({"c": make_blocks()["c"]})
    features, per_task = encoder(jagged(STEPS, GAPS, [[5, 3], [3], []]), users())
    table = encoder.embeddings.embeddings["item"].weight
    torch.testing.assert_close(features[0, :4], table[5] + table[3])
    assert per_task.shape == (3, 1, 0)


def test_ids_held_once_give_the_same_vectors_and_gradients():
    found = []
    once = jagged([[2, 5, 7], [], []], [[0, 1, 2], [], []], [[3, 5], [], []])
    places = jagged([[1, 1, 0], [], [0, 2, 1, 0]], GAPS, [[1], [0], []])
    for arguments in ((jagged(STEPS, GAPS, ITEMS), users()), (once, users(), places)):
        encoder = make_encoder(make_blocks())
        features, per_task = encoder(*arguments)
        (features.square().sum() + per_task.sin().sum()).backward()
        found.append((features, per_task, [parameter.grad for parameter in encoder.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_without_bags_beside_it_the_encoder_needs_no_pooled_features():
    columns = replace(COLUMNS, user=[])
    encoder = make_encoder({"a": SequenceBlock(columns, TargetAttention(SequenceWidths(4, 4, 4)))})
    features, _ = encoder(jagged(STEPS, GAPS, ITEMS), None)
    assert features.shape == (3, 8)


def test_a_sequence_without_its_table_is_refused():
    block = SequenceBlock(replace(COLUMNS, items=["past_shop"]), TargetAttention(WIDTHS))
    text = "Sequence 'a': ['past_shop'] have no table in the embedding collection, which holds ['item', 'past_gap',"
    with pytest.raises(ValueError, match=re.escape(text)):
        make_encoder({"a": block})


def test_no_sequence_is_refused():
    with pytest.raises(ValueError, match="at least one sequence, but found none"):
        make_encoder({})


def test_blocks_of_different_width_are_refused():
    wide = MeanPooling(SequenceWidths(8, 4))
    with pytest.raises(ValueError, match=r"one a tower and all of one width, but found widths \[4, 8\]"):
        SequenceBlock(COLUMNS, [MeanPooling(SequenceWidths(4, 4)), wide])
    with pytest.raises(ValueError, match=r"found widths \[\]"):
        SequenceBlock(COLUMNS, [])


def test_sequences_must_agree_on_the_number_of_towers():
    blocks = {
        name: SequenceBlock(COLUMNS, [DUPN(WIDTHS) for _ in range(towers)]) for name, towers in (("a", 2), ("b", 3))
    }
    with pytest.raises(ValueError, match=r"agree on the number of towers, but found \{2, 3\}"):
        make_encoder(blocks)
