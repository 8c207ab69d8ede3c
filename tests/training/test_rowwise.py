"""The compiled loop updates tables as FBGEMM's own kernel does."""

import copy

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchrec_mtl.training.rowwise import CompiledUpdate, use_compiled_loop

ROWS, DIMENSIONS = (50, 30, 400), (16, 8, 16)


class Sharded(nn.Module):
    """Holds its lookups in a plain list, as TorchRec's sharded modules do."""

    def __init__(self, *lookups):
        super().__init__()
        self._lookups = lookups


def make_tables(owners=(0, 1, 1, 2), pooling=PoolingMode.SUM, optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, **options):
    torch.manual_seed(0)
    host = EmbeddingLocation.HOST, ComputeDevice.CPU
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dimension, *host) for rows, dimension in zip(ROWS, DIMENSIONS, strict=True)],
        feature_table_map=list(owners),
        optimizer=optimizer,
        learning_rate=0.1,
        eps=1e-8,
        pooling_mode=pooling,
        **options,
    )
    tables.init_embedding_weights_uniform(-1, 1)
    return tables


def make_input(owners, rows, seed, most=4):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, most, (len(owners) * rows,), generator=generator)
    counts = lengths.view(len(owners), rows).sum(1).tolist()
    ids = [torch.randint(0, ROWS[o], (n,), generator=generator) for o, n in zip(owners, counts, strict=True)]
    gradient = torch.randn(rows, sum(DIMENSIONS[owner] for owner in owners), generator=generator)
    return torch.cat(ids), torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]), gradient


def train(tables, owners, steps=6, rows=40, most=4):
    outputs = []
    for seed in range(steps):
        ids, offsets, gradient = make_input(owners, rows, seed, most)
        output = tables(ids, offsets)
        output.backward(gradient)
        outputs.append(output.detach())
    return outputs


def assert_equal_tables(found, expected):
    for mine, theirs in zip(found.split_embedding_weights(), expected.split_embedding_weights(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-6)
    for mine, theirs in zip(found.split_optimizer_states(), expected.split_optimizer_states(), strict=True):
        torch.testing.assert_close(mine[0], theirs[0], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 1, 2), (0, 0, 1, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("pooling", [PoolingMode.SUM, PoolingMode.MEAN])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_update_is_fbgemms(owners, pooling, threads):
    stock, mine = make_tables(owners, pooling), make_tables(owners, pooling)
    assert use_compiled_loop(Sharded(mine)) == 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, expected = train(mine, owners), train(stock, owners)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    assert_equal_tables(mine, stock)
    start = make_tables(owners, pooling).split_embedding_weights()
    assert all(not torch.equal(a, b) for a, b in zip(start, mine.split_embedding_weights(), strict=True))


def test_features_without_ids_and_batches_without_ids():
    stock, mine = make_tables(), make_tables()
    use_compiled_loop(Sharded(mine))
    for tables in (stock, mine):
        train(tables, (0, 1, 1, 2), most=1)  # not one id
        ids = torch.tensor([7, 7, 3])  # all of the last feature
        offsets = torch.tensor([0] * 13 + [1, 1, 2, 3])
        tables(ids, offsets).backward(torch.ones(4, 48))
    assert_equal_tables(mine, stock)
    assert not torch.equal(mine.split_embedding_weights()[2], make_tables().split_embedding_weights()[2])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 6))
def test_threads_get_whole_tables(lookups, threads):
    """Cuts ascend from the first feature to the last, and fall between tables alone."""
    owners = tuple(min(place, 2) for place in range(len(lookups)))
    if len(owners) < 3:
        owners = (0, 1, 2)
        lookups = [*lookups, *([1] * (3 - len(lookups)))]
    update = CompiledUpdate(make_tables(owners))
    ends = [0]
    for feature, empty in zip(update.features.tolist(), update.empty.tolist(), strict=True):
        ends.append(ends[-1] + (0 if empty else lookups[feature]))
    cuts = update._cuts(ends, threads)
    assert cuts[0] == 0
    assert cuts[-1] == len(update.features)
    assert cuts == sorted(set(cuts))
    assert len(cuts) <= threads + 1
    assert set(cuts) <= set(update.starts)


def test_an_id_outside_its_table_is_found():
    tables = make_tables()
    use_compiled_loop(Sharded(tables))
    ids, offsets, _ = make_input((0, 1, 1, 2), 4, 0)
    ids[0] = 10**6
    tables(ids, offsets)
    assert int(ids[0]) == 0, "FBGEMM's check warns and reads row 0 instead; without it this would crash"


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": EmbOptimType.EXACT_SGD},
        {"optimizer": EmbOptimType.EXACT_ADAGRAD},
        {"pooling": PoolingMode.NONE, "owners": (0, 2)},
        {"gradient_clipping": True, "max_gradient": 1.0},
    ],
    ids=str,
)
def test_other_tables_keep_fbgemms_way(options):
    if options.get("pooling") == PoolingMode.NONE:
        with_one_width = SplitTableBatchedEmbeddingBagsCodegen(
            [(50, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            pooling_mode=PoolingMode.NONE,
        )
        assert use_compiled_loop(Sharded(with_one_width)) == 0
        return
    assert use_compiled_loop(Sharded(make_tables(**options))) == 0


def test_weighted_bags_keep_fbgemms_way():
    stock, mine = make_tables(), make_tables()
    use_compiled_loop(Sharded(mine))
    ids, offsets, gradient = make_input((0, 1, 1, 2), 40, 0)
    weights = torch.rand(len(ids))
    for tables in (stock, mine):
        tables(ids, offsets, weights).backward(gradient)
    for a, b in zip(mine.split_embedding_weights(), stock.split_embedding_weights(), strict=True):
        assert torch.equal(a, b)


def test_a_changed_rate_and_a_copied_model():
    """A schedule's rates reach the update, and a copy of a model has tables of its own."""
    stock, mine = make_tables(), make_tables()
    use_compiled_loop(Sharded(mine))
    copied = copy.deepcopy(mine)
    for tables in (stock, mine):
        for seed, rate in enumerate((0.1, 0.5, 0.0, 0.02)):
            tables.set_learning_rate(rate)
            ids, offsets, gradient = make_input((0, 1, 1, 2), 40, seed)
            tables(ids, offsets).backward(gradient)
    assert_equal_tables(mine, stock)
    assert_equal_tables(copied, make_tables())
    train(copied, (0, 1, 1, 2))
    assert_equal_tables(mine, stock)
    train(fresh := make_tables(), (0, 1, 1, 2))
    assert_equal_tables(copied, fresh)
