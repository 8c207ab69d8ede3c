"""STEM in TorchRec's pipeline: a task's loss leaves the sharded tables and experts of all other tasks as they are."""

import pytest
import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.data.own_tables import own_features, with_own_tables
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.layout import TaskFeatures
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.parity import concatenated, train_plainly, whole
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableOptimizer, TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import STEM

TOWERS = ["ctr", "cvr", "like"]
FEATURES = with_own_tables(
    Features(
        [Table("shop", 40, 16), Table("brand", 30, 8, pooling="mean"), Table("user", 20, 4)],
        [SparseFeature("shop"), SparseFeature("brand"), SparseFeature("user"), SparseFeature("seen", table="shop")],
        own_tables=["shop", "brand"],
    ),
    TOWERS,
)
ROWS, DENSE, STEPS = 16, 2, 4
PLANS = {
    "row_wise": dict.fromkeys(["shop", "brand", "user"], "row_wise"),
    "mixed": {"shop": "column_wise", "brand": "table_wise", "user": "data_parallel"},
    "reordered": {"shop": "table_wise", "brand": "row_wise", "user": "table_wise"},
    "replicated": dict.fromkeys(["shop", "brand", "user"], "data_parallel"),
}


def make_objective(device="meta"):
    torch.manual_seed(0)
    embeddings = EmbeddingBagCollection(tables=FEATURES.embedding_bag_configs(), device=torch.device(device))
    trunk = STEM(FEATURES.width + DENSE, 3, levels=[[16], [8]], task_experts=2)
    heads = TaskHeads({tower: Tower(8, hidden=[4]) for tower in TOWERS})
    model = MultiTaskModel(embeddings, trunk, heads, task_features=TaskFeatures(own=own_features(FEATURES, TOWERS)))
    return MultiTaskObjective(model, [BinaryTask(tower, tower) for tower in TOWERS])


def make_batch(seed, active):
    """Every feature reads ids of its own; one task has labels, or all have."""
    generator = torch.Generator().manual_seed(seed)
    names = [feature.name for feature in FEATURES.pooled]
    lengths = torch.randint(1, 4, (len(names) * ROWS,), generator=generator).int()
    ids = torch.randint(0, 20, (int(lengths.sum()),), generator=generator)
    nothing = torch.full((ROWS,), float("nan"))
    labels = torch.randint(0, 2, (ROWS,), generator=generator).float()
    return MultiTaskBatch(
        dense=torch.randn(ROWS, DENSE, generator=generator),
        sparse=KeyedJaggedTensor(names, ids, lengths=lengths, stride=ROWS),
        labels={tower: labels if active in (tower, "all") else nothing for tower in TOWERS},
    )


def updates(cases):
    """``{case: {parameter: (before, after)}}``, of some steps in which one task has labels."""
    found = {}
    with distributed() as runtime:
        for plan, optimizer, active in cases:
            choices = {table.name: PLANS[plan][table.name.split(":")[0]] for table in FEATURES.tables}
            pipeline = build_train_pipeline(
                make_objective(),
                lambda parameters: torch.optim.Adam(parameters, lr=0.01),
                TableOptimizer(getattr(torch.optim, optimizer), lr=0.1) if optimizer else None,
                device=runtime.device,
                constraints={t: TableSharding([k], 8 if k == "column_wise" else None) for t, k in choices.items()},
            )
            before = {
                name: value.clone() for name, value in whole(pipeline._model.state_dict()).items() if on_rank(value)
            }
            batches = iter([make_batch(10 * step + runtime.rank.index, active) for step in range(STEPS)])
            for _ in range(STEPS):
                pipeline.progress(batches)
            assert len(pipeline._pipelined_modules) == 1
            after = whole(pipeline._model.state_dict())
            found[plan, optimizer, active] = {name: (value, after[name]) for name, value in before.items()}
    return found


def on_rank(value):
    return value is not None  # sharded tables are gathered on rank 0 alone


CASES = [(plan, None, active) for plan in PLANS for active in TOWERS] + [("row_wise", "SGD", "ctr")]


@pytest.fixture(scope="module", params=[1, 2])
def found(request):
    return run_on_ranks(updates, request.param, CASES)[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_task_changes_its_own_and_the_shared_tables_and_no_others(found, case):
    tables = {name.split(".")[-2]: pair for name, pair in found[case].items() if "embedding_bags" in name}
    assert set(tables) == {table.name for table in FEATURES.tables}
    for name, (before, after) in tables.items():
        _, _, tower = name.partition(":")
        assert torch.equal(before, after) == (tower not in ("", case[2])), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_task_changes_its_own_and_the_shared_experts_and_no_others(found, case):
    seen = 0
    for name, (before, after) in found[case].items():
        number = 2 if ".own." in name else 1
        if "trunk.levels" in name and (".own." in name or ".gates." in name):
            for place in range(3 * number):
                others = place // number != TOWERS.index(case[2])
                assert torch.equal(before[place], after[place]) == others, (name, place)
            seen += 1
        elif "trunk.levels" in name:
            assert not torch.equal(before, after), name
        elif "heads.towers" in name:
            assert torch.equal(before, after) == (f".towers.{TOWERS.index(case[2])}." not in name), name
    assert seen == 8  # weight and bias of experts and gates, at two levels


def test_two_ranks_train_like_one_process_also_where_torchrec_orders_features_otherwise():
    case = ("reordered", "SGD", "all")
    found = run_on_ranks(updates, 2, [case])[0][case]
    objective = make_objective("cpu")
    objective.load_state_dict({name: before for name, (before, _) in found.items()})
    tables = [value for name, value in objective.named_parameters() if "embedding_bags" in name]
    others = [value for name, value in objective.named_parameters() if "embedding_bags" not in name]
    optimizers = [torch.optim.SGD(tables, lr=0.1), torch.optim.Adam(others, lr=0.01)]
    batches = [concatenated([make_batch(10 * step + rank, "all") for rank in range(2)]) for step in range(STEPS)]
    _, state = train_plainly(objective, optimizers, batches)
    for name, (before, after) in found.items():
        assert not torch.equal(before, after), name
        torch.testing.assert_close(after, state[name], atol=1e-5, rtol=1e-5, msg=lambda text, n=name: n + text)
