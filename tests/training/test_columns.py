"""What a loaded part has learnt meets the features that it has learnt it of."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from tests.small import make_embeddings
from tests.training.starting import make_objective, started
from torchrec_mtl import MultiTaskModel
from torchrec_mtl.data import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.dense import QuantileEncoder
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.layout import TaskFeatures
from torchrec_mtl.sequences import MeanPooling, SequenceBlock, SequenceColumns, SequenceEncoder, SequenceWidths
from torchrec_mtl.training.addresses import NetworkNames
from torchrec_mtl.training.columns import columns_of, moved_columns
from torchrec_mtl.trunks import STEM, SharedBottom

pytestmark = pytest.mark.usefixtures("same_numbers")


def features(**dimensions):
    names = list(dimensions)
    tables = [Table(name, 20, dimensions[name]) for name in names]
    return Features(tables, [SparseFeature(name) for name in names], [DenseFeature("price"), DenseFeature("age")])


def test_features_that_change_places_under_a_loaded_trunk_are_refused(tmp_path):
    """Tables of 8 and 4 that become 4 and 8 leave the trunk's width, and all its shapes, as they were."""
    before, after = features(shop=8, recent_shops=4), features(shop=4, recent_shops=8)
    new = ["tables.shop", "tables.recent_shops"]
    pair = make_objective(["a"], features=before), make_objective(["a"], features=after)
    with pytest.raises(
        ValueError,
        match=r"has a part 'trunk' that reads other columns: dense 2, shop 8, recent_shops 4, now dense 2, shop 4, "
        r"recent_shops 8. What .* Give tables, sequences and dense encoder the widths .* or name trunk in start_from.n",
    ):
        started(tmp_path, *pair, new=new)
    for now, parts in ((after, [*new, "trunk"]), (before, new)):  # or new rows in the same columns
        started(tmp_path, make_objective(["a"], features=before), make_objective(["a"], features=now), new=parts)


def test_features_that_change_places_under_a_tower_that_alone_reads_them_are_refused(tmp_path):
    only = TaskFeatures({"shop": ["a"], "recent_shops": ["a"]})
    pair = [
        make_objective(
            ["a"], tower=lambda reads: Tower(reads + 12), features=features(**each), width=2, task_features=only
        )
        for each in ({"shop": 8, "recent_shops": 4}, {"shop": 4, "recent_shops": 8})
    ]
    new = ["tables.shop", "tables.recent_shops"]
    with pytest.raises(
        ValueError,
        match=r"a part 'towers.a' that reads other columns: shop 8, recent_shops 4, now shop 4, recent_shops 8.* or "
        r"name towers.a in",
    ):
        started(tmp_path, *pair, new=new)


def model(widths, towers=("a", "b"), only=None, own=None, dense=None, trunk=SharedBottom):
    """A model around embeddings alone."""
    embeddings = make_embeddings(features(**widths))
    encoded = 2 if dense is None else dense.out_features
    apart = sum(widths[name] for name in only or {} if name in widths)
    made = trunk(encoded + sum(widths.values()) - apart, len(towers))
    heads = {
        name: Tower(made.out_features + sum(widths[f] for f, readers in (only or {}).items() if name in readers))
        for name in towers
    }
    task_features = TaskFeatures(only or {}, own or {}, dense=["price", "age"])
    return MultiTaskModel(embeddings, made, TaskHeads(heads), dense, task_features=task_features)


def test_each_part_says_what_it_reads():
    assert columns_of(model({"shop": 8, "zone": 4}, only={"zone": ["b"]}, dense=QuantileEncoder(2))) == {
        "trunk": [("price", 1), ("age", 1), ("price", 1), ("age", 1), ("shop", 8)],
        "towers.b": [("zone", 4)],
    }


def test_a_towers_own_copies_stand_apart_from_what_all_share():
    def with_copies(towers, width=8):
        copies = {f"shop:{tower}": width for tower in towers}
        own = {tower: {"shop": f"shop:{tower}"} for tower in towers}
        return NetworkNames(towers, columns=columns_of(model({"shop": 8, **copies}, towers, own=own, trunk=STEM)))

    before = with_copies(["a", "b"])
    assert before.columns == {
        "trunk": [("price", 1), ("age", 1), ("shop", 8)],
        "trunk.a": [("shop:a", 8)],
        "trunk.b": [("shop:b", 8)],
    }
    after = with_copies(["new", "b", "c"]).columns
    before = before.renamed({"a": "c"}).columns
    assert not any(moved_columns(before, after, part) for part in ("trunk", "trunk.b", "trunk.c"))
    moved = moved_columns(before, with_copies(["b"], 4).columns, "trunk.b")
    assert moved == "shop:b 8, now shop:b 4"


def with_sequences(query_widths, per_task):
    """A model whose sequence asks for two features of the candidate, and is for each tower or for all."""
    embeddings = make_embeddings(features(**query_widths))
    config = EmbeddingConfig(name="item", num_embeddings=20, embedding_dim=4, feature_names=["past"])
    widths = SequenceWidths(4, sum(query_widths.values()))
    block = [MeanPooling(widths) for _ in "ab"] if per_task else MeanPooling(widths)
    columns = SequenceColumns(["past"], query=list(query_widths))
    encoder = SequenceEncoder(
        EmbeddingCollection(tables=[config], device=torch.device("cpu")), {"history": SequenceBlock(columns, block)}
    )
    trunk = SharedBottom(2 + sum(query_widths.values()) + (0 if per_task else 4), 2, layers=[8])
    towers = {name: Tower(8 + (4 if per_task else 0)) for name in "ab"}
    task_features = TaskFeatures(dense=["price", "age"])
    return MultiTaskModel(embeddings, trunk, TaskHeads(towers), sequences=encoder, task_features=task_features)


def test_sequences_stand_where_they_are_read_and_say_what_they_ask_for():
    shared = columns_of(with_sequences({"shop": 8, "zone": 4}, per_task=False))
    assert shared == {
        "trunk": [("price", 1), ("age", 1), ("shop", 8), ("zone", 4), ("history", 4)],
        "sequences.history": [("shop", 8), ("zone", 4)],
    }
    apart = columns_of(with_sequences({"shop": 4, "zone": 8}, per_task=True))
    assert apart["towers.a"] == apart["towers.b"] == [("history", 4)]
    assert moved_columns(shared, apart, "sequences.history") == "shop 8, zone 4, now shop 4, zone 8"
    assert moved_columns(shared, apart, "towers.a") == "nothing, now history 4"
    as_json = {part: [list(each) for each in found] for part, found in shared.items()}
    assert not any(moved_columns(as_json, shared, part) for part in shared)
