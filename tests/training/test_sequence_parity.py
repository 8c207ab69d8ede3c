"""Behaviour sequences on two ranks: sharded and pipelined, they train like one unsharded process."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.heads import ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.sequences import (
    DUPN,
    SequenceBlock,
    SequenceColumns,
    SequenceEncoder,
    SequenceWidths,
    TargetAttention,
)
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.parity import assert_equal_training, load_whole, losses_of, train_plainly, whole
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableOptimizer, TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import SharedBottom

ROWS, STEPS, WIDTH = 12, 10, 8
ITEM_ROWS = {"past_item": 40, "past_shop": 30, "past_gap": 5, "item": 40, "shop": 30}
TABLES = {"item": 40, "shop": 30, "gap": 5}
TASKS = [BinaryTask("ctr", "click"), BinaryTask("ctcvr", "purchase")]
COLUMNS = SequenceColumns(["past_item", "past_shop"], ["past_gap"], ["item", "shop"], ["user"], max_length=6)


def make_objective(device, per_task):
    torch.manual_seed(1)
    bags = EmbeddingBagCollection(
        tables=[EmbeddingBagConfig(name="user", num_embeddings=20, embedding_dim=4, feature_names=["user"])],
        device=torch.device(device),
    )
    collection = EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=table,
                num_embeddings=rows,
                embedding_dim=WIDTH,
                feature_names=[f"past_{table}"] + ([table] if table != "gap" else []),
            )
            for table, rows in TABLES.items()
        ],
        device=torch.device(device),
    )
    torch.manual_seed(2)
    widths = SequenceWidths(items=16, query=16, properties=8, user=4)
    blocks = [TargetAttention(widths), TargetAttention(widths)]
    sequences = {
        "bought": SequenceBlock(COLUMNS, blocks if per_task else blocks[0]),
        "bought_again": SequenceBlock(COLUMNS, DUPN(widths)),
    }
    encoder = SequenceEncoder(collection, sequences)
    trunk = SharedBottom(4 + encoder.out_features, 2, layers=[16])
    heads = TaskHeads(
        {name: Tower(16 + encoder.task_features, hidden=[8]) for name in ("ctr", "cvr")},
        links=[ProbabilityProduct("ctcvr", of=("ctr", "cvr"))],
    )
    return MultiTaskObjective(MultiTaskModel(bags, trunk, heads, sequences=encoder), TASKS)


def make_parts(seed, empty=False):
    """A batch as plain columns; ``empty`` leaves a rank without a single step."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.zeros(ROWS, dtype=torch.int32) if empty else torch.randint(0, 7, (ROWS,), generator=generator).int()
    ones = torch.ones(ROWS, dtype=torch.int32)
    ones[0] = 0  # a candidate without an item
    lengths = {key: steps if key.startswith("past") else ones for key in ITEM_ROWS}
    values = {
        key: torch.randint(0, rows, (int(lengths[key].sum()),), generator=generator) for key, rows in ITEM_ROWS.items()
    }
    click = torch.randint(0, 2, (ROWS,), generator=generator).float()
    purchase = click * torch.randint(0, 2, (ROWS,), generator=generator)
    user = torch.randint(0, 20, (ROWS,), generator=generator)
    return {"user": user, "lengths": lengths, "values": values, "click": click, "purchase": purchase}


def make_batch(*parts):
    """One batch of all parts' rows, one after the other."""
    rows = ROWS * len(parts)
    return MultiTaskBatch(
        dense=torch.zeros(rows, 0),
        sparse=KeyedJaggedTensor(
            ["user"], torch.cat([part["user"] for part in parts]), lengths=torch.ones(rows, dtype=torch.int32)
        ),
        sequences=KeyedJaggedTensor(
            list(ITEM_ROWS),
            torch.cat([part["values"][key] for key in ITEM_ROWS for part in parts]),
            lengths=torch.cat([part["lengths"][key] for key in ITEM_ROWS for part in parts]),
            stride=rows,
        ),
        labels={name: torch.cat([part[name] for part in parts]) for name in ("click", "purchase")},
    )


def rank_parts(rank):
    return [make_parts(100 * step + rank, empty=step == 3 and rank == 1) for step in range(STEPS)]


def train_alone(per_task):
    objective = make_objective("cpu", per_task)
    tables = [p for name, p in objective.named_parameters() if ".embeddings." in name]
    others = [p for name, p in objective.named_parameters() if ".embeddings." not in name]
    assert len(tables) == 4
    optimizers = [RowWiseAdagrad(tables, lr=0.05, eps=1e-8), torch.optim.Adam(others, lr=0.01)]
    steps = zip(rank_parts(0), rank_parts(1), strict=True)
    return train_plainly(objective, optimizers, (make_batch(*parts) for parts in steps))


CASES = [("row_wise", False), ("row_wise", True), ("table_wise", False)]


def train_sharded(cases):
    with distributed() as runtime:
        return {case: train_case(runtime, *case) for case in cases}


def train_case(runtime, sharding, per_task):
    initial = make_objective("cpu", per_task).state_dict()
    pipeline = build_train_pipeline(
        make_objective("meta", per_task),
        lambda p: torch.optim.Adam(p, lr=0.01),
        TableOptimizer(lr=0.05),
        device=runtime.device,
        constraints={table: TableSharding([sharding]) for table in (*TABLES, "user")},
    )
    load_whole(pipeline._model.state_dict(), initial)
    iterator = iter([make_batch(parts) for parts in rank_parts(runtime.rank.index)])
    outputs = [pipeline.progress(iterator) for _ in range(STEPS)]
    return (
        [losses_of(output) for output in outputs],
        whole(pipeline._model.state_dict()),
        len(pipeline._pipelined_modules),
    )


@pytest.fixture(scope="module")
def sharded():
    return run_on_ranks(train_sharded, 2, CASES)


@pytest.mark.parametrize(("sharding", "per_task"), CASES)
def test_two_ranks_train_like_one_process(sharded, sharding, per_task):
    for rank in range(2):
        losses, _, pipelined = sharded[rank][sharding, per_task]
        assert pipelined == 2, "embedding bags and sequences must both be pipelined"
        assert losses == sharded[0][sharding, per_task][0]
    assert_equal_training(sharded[0][sharding, per_task], train_alone(per_task), 2e-5)


def test_the_reference_itself_learns():
    """Guards the comparison: two models that never move would agree too."""
    _, state = train_alone(True)
    before = make_objective("cpu", True).state_dict()
    assert all(not torch.equal(before[name], state[name]) for name in state)
