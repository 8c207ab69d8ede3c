"""The trunk's vector: its order and what some towers alone read, also where TorchRec has sharded the tables."""

import pytest
import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.dense import QuantileEncoder
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.layout import TaskFeatures
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.parity import load_whole
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import SharedBottom
from torchrec_mtl.vector import FeatureVector, dense_columns

NAMES = "abcde"
FEATURES = Features(
    tables=[Table("a", 10, 8), Table("b", 20, 8), Table("c", 30, 16), Table("d", 40, 4)],
    sparse=[SparseFeature("a"), SparseFeature("b"), SparseFeature("c"), SparseFeature("d"), SparseFeature("e", "b")],
)
ORDER = ["a", "b", "e", "c", "d"]  # that of the tables, then of their features
PLANS = [
    {"a": "row_wise", "b": "table_wise", "c": "column_wise", "d": "data_parallel"},
    dict.fromkeys("abcd", "table_wise"),
    {"a": "table_wise", "b": "row_wise", "c": "table_wise", "d": "row_wise"},
    {"a": "data_parallel", "b": "table_wise", "c": "data_parallel", "d": "table_wise"},
]


class Watching(SharedBottom):
    """Keeps what it reads."""

    def arrange(self, layout):
        super().arrange(layout)
        self.layout = layout

    def forward(self, features):
        self.seen = features.detach().clone()
        return super().forward(features)


def numbered_batch(rows=4):
    """Every feature reads row 3 of its table, and e row 4, which it shares with b."""
    values = torch.tensor([4 if name == "e" else 3 for name in NAMES for _ in range(rows)])
    lengths = torch.ones(len(NAMES) * rows).int()
    return MultiTaskBatch(
        dense=torch.full((rows, 2), 7.0),
        sparse=KeyedJaggedTensor(list(NAMES), values, lengths=lengths, stride=rows),
        labels={"y": torch.ones(rows)},
    )


def number(table, row):
    return 100.0 * "abcd".index(table) + row


def watch(plans):
    """What a trunk sees on each plan, before any update, and the order in which TorchRec gives it."""
    found = []
    with distributed() as runtime:
        for plan in plans:
            embeddings = EmbeddingBagCollection(tables=FEATURES.embedding_bag_configs(), device=torch.device("meta"))
            trunk = Watching(FEATURES.width + 2, 1, layers=[4])
            model = MultiTaskModel(embeddings, trunk, TaskHeads({"y": Tower(4)}))
            pipeline = build_train_pipeline(
                MultiTaskObjective(model, [BinaryTask("y", "y")]),
                torch.optim.Adam,
                device=runtime.device,
                constraints={
                    t: TableSharding([kind], 8 if kind == "column_wise" else None) for t, kind in plan.items()
                },
            )
            state = pipeline._model.state_dict()
            whole = {
                f"model.embeddings.embedding_bags.{table.name}.weight": number(table.name, 0)
                + torch.arange(float(table.rows))[:, None].expand(-1, table.dimension)
                for table in FEATURES.tables
            }
            load_whole({name: state[name] for name in whole}, whole)
            pipeline.progress(iter([numbered_batch()]))
            pipelined = len(pipeline._pipelined_modules)
            (sharded,) = pipeline._pipelined_modules
            found.append((trunk.layout.columns, trunk.seen, list(sharded._embedding_names), pipelined))
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_plan_gives_the_trunk_the_same_order(ranks):
    plans = [PLANS[0], PLANS[2]] if ranks == 1 else PLANS
    orders = []
    for found in run_on_ranks(watch, ranks, plans):
        for columns, seen, order, pipelined in found:
            assert pipelined == 1
            orders.append(order)
            assert list(columns) == ["dense", *ORDER]
            assert columns["dense"] == (0, 1)
            expected = {"dense": 7.0, "e": number("b", 4)} | {name: number(name, 3) for name in "abcd"}
            for name, at in columns.items():
                assert (seen[:, list(at)] == expected[name]).all(), name
            assert [len(columns[name]) for name in ORDER] == [8, 8, 8, 16, 4]
    assert any(order != ORDER for order in orders), "TorchRec gives no other order: nothing is tested"


def keyed(widths, rows=3):
    values = torch.arange(rows * sum(widths.values()), dtype=torch.float32).view(rows, -1)
    return KeyedTensor(list(widths), list(widths.values()), values)


def test_what_some_towers_alone_read_is_taken_apart():
    vector = FeatureVector(
        ["price", "age", "price", "age"],  # as a QuantileEncoder gives them
        {"shop": 4, "brand": 8},
        {"history": 2},
        ["ctr", "cvr", "value"],
        TaskFeatures(only={"brand": ["cvr"], "age": ["cvr", "value"]}),
    )
    dense, sequences = -torch.arange(12.0).view(3, 4) - 1, torch.full((3, 2), 0.5)
    pooled = keyed({"brand": 8, "shop": 4})  # in another order
    shared, alone = vector(dense, pooled, sequences)
    torch.testing.assert_close(shared, torch.cat([dense[:, [0, 2]], pooled["shop"], sequences], dim=1))
    assert vector.out_features == 8
    assert vector.tower_features == {"ctr": 0, "cvr": 10, "value": 2}
    torch.testing.assert_close(alone[1], torch.cat([dense[:, [1, 3]], pooled["brand"]], dim=1))
    torch.testing.assert_close(alone[2], dense[:, [1, 3]])
    assert alone[0].shape == (3, 0)
    expected = {"dense": (0, 1), "price": (0, 1), "shop": (2, 3, 4, 5), "history": (6, 7)}
    assert vector.layout.columns == expected


@pytest.mark.parametrize(
    ("only", "text"),
    [
        ({"barnd": ["ctr"]}, r"Features of tower 'ctr' alone: 'barnd' is no part .*did you mean 'brand'"),
        (
            {"brand": ["ctrr"]},
            r"'brand' is for tower 'ctrr', which is not there. Found \['ctr', 'cvr'\]; did you mean 'ctr'",
        ),
        ({"brand": []}, r"'brand' is for some towers only, but none is named. Name some of \['ctr', 'cvr'\]"),
    ],
)
def test_names_that_are_not_there_are_refused(only, text):
    with pytest.raises(ValueError, match=text):
        FeatureVector(1, {"shop": 4, "brand": 8}, {}, ["ctr", "cvr"], TaskFeatures(only=only))


def test_two_parts_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"must have different names.*\['shop'\] stand for several"):
        FeatureVector(1, {"shop": 4}, {"shop": 8}, ["ctr"])


def test_own_tables_of_some_towers_are_refused():
    with pytest.raises(ValueError, match=r"Own tables must be given for each tower \['a', 'b'\], but are for \['a'\]"):
        FeatureVector(1, {"shop": 4}, {}, ["a", "b"], TaskFeatures(own={"a": {"shop": "shop:a"}}))


def test_encoded_columns_keep_their_names():
    names = TaskFeatures(dense=["price", "age"])
    assert dense_columns(QuantileEncoder(2), names) == ["price", "age", "price", "age"]
    assert dense_columns(QuantileEncoder(2), TaskFeatures()) == 4
    assert dense_columns(None, names) == ["price", "age"]
    assert dense_columns(None, TaskFeatures()) is None
    with pytest.raises(ValueError, match=r"encoder reads 3 features, but 2 are named: \['price', 'age'\]"):
        dense_columns(QuantileEncoder(3), names)


@pytest.mark.parametrize("feature", range(2))
def test_the_quantile_encoders_columns_come_from_where_it_says(feature):
    encoder = QuantileEncoder(2, quantiles=5)
    moved = torch.zeros(1, 2)
    moved[0, feature] = 0.3
    changed = (encoder(moved) != encoder(torch.zeros(1, 2)))[0]
    assert changed.tolist() == [source == feature for source in encoder.sources]
