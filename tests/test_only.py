"""Features for some towers only that a sequence asks for: refused wherever they would reach another tower."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.data.own_tables import own_features, with_own_tables
from torchrec_mtl.data.sequence import BehaviourSequence
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.layout import TaskFeatures
from torchrec_mtl.sequences import DUPN
from torchrec_mtl.training.sequences import sequence_encoder
from torchrec_mtl.trunks import STEM, LayerOptions, SharedBottom
from torchrec_mtl.vector import FeatureVector, feature_vector

TOWERS, ROWS = ["one", "two", "three"], 6
SMOOTH = LayerOptions(activation=torch.nn.Tanh)  # of a few ReLUs all may be dead
FEATURES = Features(
    [Table(name, 10, 4) for name in ("shop", "city", "item")],
    [SparseFeature("shop"), SparseFeature("city"), SparseFeature("item")],
    sequences=[BehaviourSequence("bought", [SparseFeature("past_item", "item")], query=["item"], user=["shop"])],
)


def build(only, per_task):
    torch.manual_seed(0)
    encoder = sequence_encoder(FEATURES, {"bought": DUPN}, ["bought"] * per_task, len(TOWERS))
    encoder.embeddings = EmbeddingCollection(tables=FEATURES.embedding_configs())
    embeddings = EmbeddingBagCollection(tables=FEATURES.embedding_bag_configs())
    groups = TaskFeatures(only=only, dense=["price"])
    vector = feature_vector(["price"], embeddings, encoder, TOWERS, groups)
    reads = 8 + encoder.task_features
    towers = {name: Tower(reads + vector.tower_features[name], hidden=[6], options=SMOOTH) for name in TOWERS}
    trunk = SharedBottom(vector.out_features, len(TOWERS), layers=[8], options=SMOOTH)
    return MultiTaskModel(embeddings, trunk, TaskHeads(towers), sequences=encoder, task_features=groups)


def batch(**moved):
    """Ids of every feature, some of them moved."""
    ids = {name: (torch.arange(ROWS) * 7 + moved.get(name, 0)) % 10 for name in ("shop", "city", "item")}
    past = (torch.arange(2 * ROWS) * 3 + moved.get("bought", 0)) % 10
    ones = torch.ones(ROWS).int()
    return MultiTaskBatch(
        dense=torch.full((ROWS, 1), 1.0 + moved.get("price", 0)),
        sparse=KeyedJaggedTensor(
            ["shop", "city"], torch.cat([ids["shop"], ids["city"]]), lengths=ones.repeat(2), stride=ROWS
        ),
        sequences=KeyedJaggedTensor(
            ["past_item", "item"], torch.cat([past, ids["item"]]), lengths=torch.cat([2 * ones, ones]), stride=ROWS
        ),
    )


def sees(only, name, tower):
    return tower in only.get(name, TOWERS)


only_of_some = st.dictionaries(
    st.sampled_from(["shop", "item", "city", "bought", "price"]),
    st.sets(st.sampled_from(TOWERS), min_size=1).map(sorted),
    max_size=3,  # something must be left to the trunk
)


@settings(deadline=None, max_examples=40)
@given(only_of_some, st.booleans())
def test_nothing_leaks_where_it_is_accepted_and_what_would_leak_is_refused(only, per_task):
    if per_task:
        only.pop("bought", None)  # its vectors are no part of the trunk's vector
    leaks = any(
        sees(only, "bought", tower) and not sees(only, asked, tower) for asked in ("item", "shop") for tower in TOWERS
    )
    if leaks:
        with pytest.raises(ValueError, match="sequence 'bought' has it as query or user"):
            build(only, per_task)
        return
    model = build(only, per_task).eval()
    before = model(batch())
    for name in only:
        after = model(batch(**{name: 1}))
        for tower in TOWERS:
            assert torch.equal(before[tower], after[tower]) == (not sees(only, name, tower)), (name, tower)
    for tower in TOWERS:
        model.zero_grad()
        model(batch())[tower].square().sum().backward()
        for table, readers in {"shop": ["shop"], "city": ["city"], "item": ["item", "bought"]}.items():
            (weight,) = (value for name, value in model.named_parameters() if name.endswith(f".{table}.weight"))
            moved = weight.grad is not None and bool(weight.grad.any())
            assert moved == any(sees(only, reader, tower) for reader in readers), (table, tower)


@pytest.mark.parametrize(
    "only",
    [
        {"item": ["two"], "bought": ["two"]},
        {"shop": ["one", "two"], "bought": ["two"]},
        {"shop": ["one", "two"], "item": ["two", "three"], "bought": ["two"]},
        {"shop": TOWERS},
        {"bought": ["one"]},
    ],
)
def test_towers_that_may_see_what_their_sequence_asks_for_are_accepted(only):
    assert build(only, per_task=False)(batch()).keys() == {*TOWERS}


@pytest.mark.parametrize(
    ("only", "per_task", "text"),
    [
        (
            {"shop": ["two"]},
            False,
            r"'shop' is for towers \['two'\] only, but sequence 'bought' has it as query or user, and towers "
            r"\['one', 'three'\] read the sequence. Take 'shop' out of the sequence's query and user, take it out of "
            r"only, or let the same towers alone read the sequence, only: \{bought: \[two\]\}",
        ),
        (
            {"item": ["one", "two"], "bought": ["two", "three"]},
            False,
            r"'item' is for towers \['one', 'two'\] only, .* and towers \['three'\] read",
        ),
        (
            {"item": ["two"]},
            True,
            r"'item' .* towers \['one', 'three'\] read .* one attention block for all towers in place of one each",
        ),
    ],
)
def test_the_text_names_the_way_out(only, per_task, text):
    with pytest.raises(ValueError, match=text):
        build(only, per_task)


@pytest.mark.parametrize(
    ("only", "text"),
    [
        (
            {"brand": ["two"]},
            r"'brand' is for towers \['two'\] only, but 'brand' has a table of its own for each tower \('brand:one', "
            r"...\), and all towers read them all. Take 'brand' out of only, or the table of 'brand' out of own_tables",
        ),
        ({"brand:two": ["two"]}, r"'brand:two' is for towers \['two'\] only, but 'brand' has a table of its own"),
    ],
)
def test_a_feature_with_a_copy_for_each_tower_is_not_for_some_only(only, text):
    plain = Features([Table("brand", 10, 4), Table("user", 10, 4)], [SparseFeature("brand"), SparseFeature("user")])
    features = with_own_tables(Features(plain.tables, plain.sparse, own_tables=["brand"]), TOWERS)
    embeddings = EmbeddingBagCollection(tables=features.embedding_bag_configs())
    groups = TaskFeatures(only=only, own=own_features(features, TOWERS), dense=["price"])
    towers = TaskHeads({name: Tower(8) for name in TOWERS})
    with pytest.raises(ValueError, match=text):
        MultiTaskModel(embeddings, STEM(17, 3, levels=[[8]]), towers, task_features=groups)
    other = TaskFeatures(only={"user": ["two"]}, own=groups.own, dense=["price"])
    assert feature_vector(["price"], embeddings, None, TOWERS, other).out_features == 1 + 4 + 3 * 4


def test_where_nothing_is_shared_the_text_says_so():
    only = {"shop": ["one"], "dense": ["two"], "bought": ["one", "two"]}
    text = (
        r"All features are for some towers only, \{'shop': \['one'\], .*so that the trunk has nothing to read. "
        r"Leave at least one"
    )
    with pytest.raises(ValueError, match=text):
        FeatureVector(2, {"shop": 4}, {"bought": 4}, ["one", "two"], TaskFeatures(only=only))


def test_the_trunk_may_read_dense_columns_alone_that_nobody_named():
    embeddings = EmbeddingBagCollection(
        tables=Features([Table("shop", 10, 4)], [SparseFeature("shop")]).embedding_bag_configs()
    )
    model = MultiTaskModel(
        embeddings,
        SharedBottom(3, 2, layers=[8]),
        TaskHeads({"one": Tower(8), "two": Tower(12)}),
        task_features=TaskFeatures(only={"shop": ["two"]}),
    )
    assert model.vector.layout.columns == {"dense": (0, 1, 2)}
