"""Features that only some towers see: nothing of them reaches any other task, forward or backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.small import FEATURES, make_batch, make_embeddings
from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.data.own_tables import own_features, with_own_tables
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.layout import TaskFeatures
from torchrec_mtl.sequences import MeanPooling, SequenceBlock, SequenceColumns, SequenceEncoder, SequenceWidths
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.trunks import STEM, HTLNet, MMoE, PEPNet, SharedBottom
from torchrec_mtl.vector import feature_vector

NAMES, TOWERS, DENSE = ["a", "b", "c"], ["one", "two", "three"], ["p", "q"]
PLAIN = Features([Table(name, 10, 4) for name in NAMES], [SparseFeature(name) for name in NAMES])
OWN = with_own_tables(
    Features([*PLAIN.tables, Table("d", 10, 8)], [*PLAIN.sparse, SparseFeature("d")], own_tables=["d"]), TOWERS
)
TRUNKS = {
    "SharedBottom": (PLAIN, lambda width: SharedBottom(width, 3, layers=[8])),
    "MMoE": (PLAIN, lambda width: MMoE(width, 3, layers=[8])),
    "PEPNet": (PLAIN, lambda width: PEPNet(width, 3, layers=[8], prior=["dense"])),
    "STEM": (OWN, lambda width: STEM(width, 3, levels=[[8], [8]])),
}


def build(features, make_trunk, only):
    torch.manual_seed(0)
    embeddings = EmbeddingBagCollection(tables=features.embedding_bag_configs(), device=torch.device("cpu"))
    groups = TaskFeatures(only=only, own=own_features(features, TOWERS), dense=DENSE)
    vector = feature_vector(DENSE, embeddings, None, TOWERS, groups)
    trunk = make_trunk(vector.out_features)
    towers = {name: Tower(8 + vector.tower_features[name], hidden=[6]) for name in TOWERS}
    return MultiTaskModel(embeddings, trunk, TaskHeads(towers), task_features=groups)


def batch_of(features, rows=12):
    generator = torch.Generator().manual_seed(1)
    names = [feature.name for feature in features.pooled]
    values = torch.randint(0, 10, (rows * len(names),), generator=generator)
    return MultiTaskBatch(
        dense=torch.randn(rows, 2, generator=generator),
        sparse=KeyedJaggedTensor(names, values, lengths=torch.ones(rows * len(names)).int(), stride=rows),
    )


def with_other(batch, feature):
    """The batch with other values of one feature or dense column."""
    dense, values = batch.dense.clone(), batch.sparse.values().clone().view(len(batch.sparse.keys()), -1)
    if feature in DENSE:
        dense[:, DENSE.index(feature)] += 1
    else:
        place = batch.sparse.keys().index(feature)
        values[place] = (values[place] + 1) % 10
    jagged = KeyedJaggedTensor(
        batch.sparse.keys(), values.flatten(), lengths=batch.sparse.lengths(), stride=batch.num_rows
    )
    return MultiTaskBatch(dense=dense, sparse=jagged)


groups = st.dictionaries(st.sampled_from([*NAMES, *DENSE]), st.sets(st.sampled_from(TOWERS), min_size=1), max_size=4)


@pytest.mark.parametrize("name", TRUNKS)
def test_what_a_tower_may_not_see_never_reaches_it(name):
    features, make_trunk = TRUNKS[name]
    batch = batch_of(features)

    @settings(deadline=None, max_examples=25)
    @given(groups)
    def check(only):
        only = {feature: sorted(towers) for feature, towers in only.items()}
        if {*DENSE} <= set(only) and name == "PEPNet":
            del only["p"]  # its prior must be there
        model = build(features, make_trunk, only)
        before = model(batch)
        for feature, towers in only.items():
            after = model(with_other(batch, feature))
            for tower in TOWERS:
                assert torch.equal(before[tower], after[tower]) == (tower not in towers), (feature, tower)
        tables = dict(model.embeddings.embedding_bags.named_children())
        for tower in TOWERS:
            model.zero_grad()
            model(batch)[tower].square().sum().backward()
            for feature, towers in only.items():
                if feature in tables:
                    moved = bool(tables[feature].weight.grad.any())
                    assert moved == (tower in towers), (feature, tower)

    check()


def test_a_second_model_around_a_trained_stem_computes_the_same():
    model, batch = build(*TRUNKS["STEM"], {}), batch_of(OWN)
    fresh = model(batch)
    for parameter in model.trunk.parameters():
        parameter.data.mul_(2)
    trained = model(batch)
    groups = TaskFeatures(own=own_features(OWN, TOWERS), dense=DENSE)
    again = MultiTaskModel(model.embeddings, model.trunk, model.heads, task_features=groups)(batch)
    for tower in TOWERS:
        assert torch.equal(trained[tower], again[tower])
        assert not torch.equal(trained[tower], fresh[tower])


def test_towers_of_different_widths_give_what_each_gives_alone():
    torch.manual_seed(0)
    widths = [8, 12, 8, 9, 12]
    towers = {f"t{i}": Tower(width, hidden=[6]) for i, width in enumerate(widths)}
    heads, shared = TaskHeads(towers), torch.randn(20, 5, 8)
    alone = [torch.randn(20, width - 8) for width in widths]
    found = heads(shared, alone)
    for i, tower in enumerate(towers.values()):
        torch.testing.assert_close(found[f"t{i}"], tower(torch.cat([shared[:, i], alone[i]], dim=1)))
    same = heads(shared[:, :1], alone)
    for i, tower in enumerate(towers.values()):
        torch.testing.assert_close(same[f"t{i}"], tower(torch.cat([shared[:, 0], alone[i]], dim=1)))


def test_a_linear_tower_of_another_width_is_not_mixed_up():
    heads = TaskHeads({"x": Tower(3, hidden=[]), "y": Tower(5, hidden=[])})
    shared, alone = torch.randn(4, 2, 3), [torch.zeros(4, 0), torch.randn(4, 2)]
    found = heads(shared, alone)
    torch.testing.assert_close(found["x"], heads.towers[0](shared[:, 0]))
    torch.testing.assert_close(found["y"], heads.towers[1](torch.cat([shared[:, 1], alone[1]], dim=1)))


def objective_with(only, tower_width=8):
    torch.manual_seed(0)
    towers = {"ctr": Tower(8), "cvr": Tower(tower_width)}
    trunk = SharedBottom(FEATURES.width - 4, 2, layers=[8])
    names = TaskFeatures(only=only, dense=["price", "age"])
    model = MultiTaskModel(make_embeddings(), trunk, TaskHeads(towers), task_features=names)
    return MultiTaskObjective(model, [BinaryTask("ctr", "click"), BinaryTask("cvr", "purchase")])


def test_an_objective_trains_with_features_of_one_tower():
    objective = objective_with({"recent_shops": ["cvr"]}, tower_width=12)
    loss, output = objective(make_batch({"click": [0, 1, 1], "purchase": [0, 1, 0]}))
    loss.backward()
    assert all(parameter.grad.any() for parameter in objective.parameters())
    assert set(output["losses"]) == {"ctr", "cvr"}


@pytest.mark.parametrize(
    ("only", "width", "text"),
    [
        (
            {"recent_shops": ["cvr"]},
            8,
            "Tower 'cvr' reads 8 features, but the trunk makes 8 for each task, and 4 features are for this tower "
            "alone. Build the tower with in_features=12",
        ),
        ({"recent_shop": ["cvr"]}, 8, "Features of tower 'cvr' alone: 'recent_shop' is no part"),
        ({}, 8, r"The trunk reads 6 features, but the embeddings alone are 8 wide"),
        (
            {"recent_shops": ["cvr"], "age": ["cvr"]},
            13,
            "The trunk reads 6 features, but there are 1 dense features and the embeddings 4. Build the trunk with "
            "in_features=5",
        ),
    ],
)
def test_widths_that_do_not_fit_are_refused(only, width, text):
    with pytest.raises(ValueError, match=text):
        objective_with(only, width)


def test_htlnet_says_that_it_cannot_give_a_tower_features_of_its_own():
    names = TaskFeatures(only={"recent_shops": ["cvr"]}, dense=["price", "age"])
    towers = {"ctr": Tower(8), "cvr": Tower(12)}
    with pytest.raises(ValueError, match="HTLNet asks tower 'cvr' for its prediction"):
        MultiTaskModel(make_embeddings(), HTLNet(6, 2, layers=[8]), TaskHeads(towers), task_features=names)


def test_dense_columns_without_names_cannot_be_split():
    towers = {"ctr": Tower(8), "cvr": Tower(10)}
    with pytest.raises(ValueError, match=r"'price' is no part of the feature vector. Found \['dense', 'shop'"):
        MultiTaskModel(
            make_embeddings(),
            SharedBottom(9, 2, layers=[8]),
            TaskHeads(towers),
            task_features=TaskFeatures(only={"price": ["cvr"]}),
        )


def test_all_dense_columns_can_be_for_one_tower_where_they_are_named():
    towers, width = {"ctr": Tower(8), "cvr": Tower(10)}, FEATURES.embedding_width
    only = {"dense": ["cvr"]}
    trunk = SharedBottom(width, 2, layers=[8])
    with pytest.raises(ValueError, match="'dense' is for some towers only, but how many columns that is, is not said"):
        MultiTaskModel(make_embeddings(), trunk, TaskHeads(towers), task_features=TaskFeatures(only=only))
    named = TaskFeatures(only=only, dense=["price", "age"])
    model = MultiTaskModel(make_embeddings(), trunk, TaskHeads(towers), task_features=named)
    batch = make_batch({"click": [0, 1, 1]})
    before = model(batch)
    batch.dense += 1
    after = model(batch)
    assert torch.equal(before["ctr"], after["ctr"])
    assert not torch.equal(before["cvr"], after["cvr"])


@pytest.mark.parametrize("name", TRUNKS)
def test_outputs_under_autocast_are_those_of_float32_to_rounding(name):
    features, make_trunk = TRUNKS[name]
    model, batch = build(features, make_trunk, {"b": ["two"]}), batch_of(features)
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch)
        sum(output.square().sum() for output in rough.values()).backward()
    for tower in TOWERS:
        assert rough[tower].dtype == torch.float32
        torch.testing.assert_close(rough[tower], exact[tower], atol=0.03, rtol=0.03)


def test_a_sequence_can_be_for_one_tower():
    torch.manual_seed(0)
    tables = Features([Table("item", 10, 4)], [SparseFeature("item")]).embedding_bag_configs()
    past = Table("past", 10, 4).arguments | {"feature_names": ["candidate", "past"]}
    encoder = SequenceEncoder(
        EmbeddingCollection(tables=[EmbeddingConfig(**past)]),
        {"history": SequenceBlock(SequenceColumns(["past"]), MeanPooling(SequenceWidths(4, 0, 0, 0)))},
    )
    assert encoder.widths == {"candidate": 4, "history": 4}
    embeddings = EmbeddingBagCollection(tables=tables)
    model = MultiTaskModel(
        embeddings,
        SharedBottom(4 + 4, 2, layers=[8]),
        TaskHeads({"one": Tower(8), "two": Tower(12)}),
        sequences=encoder,
        task_features=TaskFeatures(only={"history": ["two"]}),
    )
    assert model.vector.layout.columns == {"dense": (), "item": (0, 1, 2, 3), "candidate": (4, 5, 6, 7)}

    def outputs(step):
        sequences = KeyedJaggedTensor(
            ["candidate", "past"], torch.tensor([1, 2, step, 3]), lengths=torch.ones(4).int(), stride=2
        )
        sparse = KeyedJaggedTensor(["item"], torch.tensor([4, 5]), lengths=torch.ones(2).int(), stride=2)
        return model(MultiTaskBatch(torch.zeros(2, 0), sparse, sequences=sequences))

    first, second = outputs(6), outputs(7)
    assert torch.equal(first["one"], second["one"])
    assert not torch.equal(first["two"][0], second["two"][0])
