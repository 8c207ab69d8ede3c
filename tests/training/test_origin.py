"""What is known of a checkpoint before it is loaded, and whether it still means the same."""

import dataclasses
import json
from pathlib import Path

import pytest

from torchrec_mtl.data import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.data.meaning import meanings
from torchrec_mtl.data.own_tables import with_own_tables
from torchrec_mtl.data.sequence import BehaviourSequence
from torchrec_mtl.tasks import BinaryTask, RegressionTask
from torchrec_mtl.training.addresses import NetworkNames, address_of
from torchrec_mtl.training.origin import Origin
from torchrec_mtl.training.position import Position
from torchrec_mtl.training.serving_state import ServingState, label_of, meaning_of
from torchrec_mtl.training.start_from import StartFrom
from torchrec_mtl.training.start_meaning import check_meaning

FEATURES = Features(
    tables=[Table("shop", 20), Table("brand", 20)],
    sparse=[SparseFeature("shop"), SparseFeature("brand")],
    dense=[DenseFeature("price")],
)
VALUE = RegressionTask("value", "value", standardise=True)
STATISTICS = {"mean": 3.0, "deviation": 2.0}


@pytest.fixture
def path(tmp_path):
    """A checkpoint without its numbers."""
    position = Position(features=meanings(FEATURES), vocabularies={"shop": "aa"}, types={"brand": "strings"})
    position = dataclasses.replace(position, sharding=dict.fromkeys(["shop", "brand"], "row_wise"))
    (tmp_path / "meta.json").write_text(json.dumps(dataclasses.asdict(position)))
    fitted = {"value": fitted_value().statistics}
    declared = {"ctr": meaning_of(BinaryTask("ctr", "click")), "value": meaning_of(VALUE)}
    layers = {"trunk": ["ReLU()"], "towers.ctr": ["Dropout(p=0.1)", "ReLU()"]}
    network = NetworkNames(["ctr", "value"], layers=layers)
    labels = {"ctr": label_of(BinaryTask("ctr", "click"))}
    ServingState(fitted, tasks=declared, network=network, labels=labels).write(tmp_path)
    return tmp_path


def fitted_value():
    import numpy as np

    return VALUE.fit(np.array([1.0, 2.0, 6.0], np.float32), np.ones(3, np.float32))


def origin(path, **start):
    return Origin.read(StartFrom(path, **start))


def test_kept_towers_keep_the_statistics_that_they_were_trained_with(path):
    found = origin(path).fitted([VALUE], ["value"], [])
    assert found == [fitted_value()]
    assert not found[0].needs_fit
    renamed = dataclasses.replace(VALUE, name="worth")
    found = origin(path, rename={"towers.value": "towers.worth"}).fitted([renamed], ["worth"], ["towers.worth"])
    assert found[0].statistics == fitted_value().statistics
    assert origin(path, new=["towers.value"]).fitted([VALUE], ["value"], []) == [VALUE], "a new tower is fitted anew"
    link = dataclasses.replace(VALUE, name="gmv")
    assert origin(path).fitted([link], ["value"], []) == [link]


def test_a_task_of_another_kind_is_said_and_refused_where_its_tower_is_frozen(path):
    focal = BinaryTask("ctr", "click", focal_gamma=2.0)
    assert origin(path).fitted([focal], ["ctr"], ["trunk"]) == [focal]
    (text,) = origin(path).changed_tasks([focal, VALUE], ["ctr", "value"])
    assert text.startswith("Task 'ctr' was trained as BinaryTask(focal_gamma=0.0")
    assert "and is BinaryTask(focal_gamma=2.0" in text
    with pytest.raises(
        ValueError, match=r"Task 'ctr' was trained as .*gamma=0.0.* and its tower is frozen: its outputs"
    ):
        origin(path).fitted([focal], ["ctr"], ["towers"])


def test_a_task_on_another_label_is_said_and_refused_where_its_tower_is_frozen(path):
    other = BinaryTask("ctr", "purchase", label_space="click")
    assert origin(path).fitted([other], ["ctr"], ["trunk"]) == [other]
    assert origin(path).changed_tasks([other], ["ctr"]) == [
        "Task 'ctr' was trained on label ['click'], and is on label ['purchase'] where ['click'] are 1 now."
    ]
    with pytest.raises(ValueError, match=r"Task 'ctr' was trained on label \['click'\], but is .* tower is frozen: it"):
        origin(path).fitted([other], ["ctr"], ["towers.ctr"])
    renamed = origin(path, rename={"towers.ctr": "towers.buy"})
    with pytest.raises(ValueError, match=r"Task 'buy' was trained on label \['click'\], but is on label \['purchase'"):
        renamed.fitted([dataclasses.replace(other, name="buy", label_space=None)], ["buy"], ["towers"])
    same = BinaryTask("ctr", "click")
    assert origin(path).fitted([same], ["ctr"], ["towers"]) == [same]
    assert origin(path).changed_tasks([same], ["ctr"]) == []


def test_other_activations_and_dropout_of_the_same_shapes_are_said(path):
    network = NetworkNames(["click", "value"], layers={"trunk": ["Tanh()"], "towers.click": ["ReLU()"]})
    rename = {"towers.ctr": "towers.click"}
    assert origin(path, rename=rename).changed_layers(network) == [
        "Part 'trunk' was trained with ['ReLU()'], and has ['Tanh()'] now.",
        "Part 'towers.click' was trained with ['Dropout(p=0.1)', 'ReLU()'], and has ['ReLU()'] now.",
    ]
    assert origin(path, rename=rename, new=["trunk", "towers.click"]).changed_layers(network) == []
    assert origin(path, rename=rename).changed_layers(NetworkNames(["click"])) == []


def test_a_checkpoint_without_names_is_refused(path):
    ServingState().write(path)
    with pytest.raises(
        ValueError, match=r"does not name its towers: an older torchrec_mtl wrote it. Go on with its ru"
    ):
        origin(path)


@pytest.mark.parametrize("rename", [{"trunk": "trunk"}, {"towers.a": "tables.a"}, {"ctr": "click"}])
def test_only_towers_and_tables_are_renamed(rename):
    with pytest.raises(ValueError, match=r"start_from.rename: towers and tables can be renamed, as in towers.ctr: "):
        StartFrom("x", rename=rename)
    with pytest.raises(ValueError, match=r"\['towers.c'\] each have several sources in the checkpoint. Name one"):
        StartFrom("x", rename={"towers.a": "towers.c", "towers.b": "towers.c"})


def check(path, features, vocabularies=None, types=None, **start):
    now = Position(vocabularies=vocabularies or {"shop": "aa"}, types=types or {"brand": "strings"})
    check_meaning(origin(path, **start), features, now, NetworkNames(["ctr", "value"]))


def test_the_same_features_pass_and_others_must_be_declared(path):
    check(path, FEATURES)
    more = dataclasses.replace(FEATURES, dense=[*FEATURES.dense, DenseFeature("age")])
    with pytest.raises(
        ValueError, match=r"has a part 'trunk' that reads other features: .*order of dense: price, now pr"
    ):
        check(path, more)
    with pytest.raises(ValueError, match=r"has a part 'dense' that reads other features"):
        check(path, more, new=["trunk"])
    check(path, more, new=["trunk", "dense"])
    fewer = Features(FEATURES.tables[:1], FEATURES.sparse[:1], FEATURES.dense)
    with pytest.raises(ValueError, match=r"reads other features: .*order of sparse: shop, brand, now shop"):
        check(path, fewer)
    check(path, fewer, new=["trunk"])


def test_rows_must_stand_for_the_same_values(path):
    with pytest.raises(ValueError, match=r"Table 'shop': .* values of 'shop' other rows: vocabulary aa, now bb"):
        check(path, FEATURES, vocabularies={"shop": "bb"}, new=["trunk"])
    with pytest.raises(ValueError, match=r"Table 'brand': .* other rows: type strings, now integers. Declare"):
        check(path, FEATURES, types={"brand": "integers"}, new=["trunk"])
    check(path, FEATURES, vocabularies={"shop": "bb"}, new=["tables.shop"])
    hashed = dataclasses.replace(FEATURES, sparse=[SparseFeature("shop", out_of_range="hash"), SparseFeature("brand")])
    with pytest.raises(
        ValueError, match=r"Table 'shop': .* rows: ids as they are, table 'shop', now out_of_range: hash"
    ):
        check(path, hashed)
    check(path, hashed, new=["tables.shop"])


def test_a_loaded_table_has_as_many_rows(path):
    features = dataclasses.replace(
        FEATURES, tables=[dataclasses.replace(FEATURES.tables[0], rows=30), *FEATURES.tables[1:]]
    )
    rows = FEATURES.tables[0].rows
    text = (
        rf"Table 'shop': the checkpoint .* has {rows} rows of it, but this job 30. Declare as many, or name tables.sh"
    )
    with pytest.raises(ValueError, match=text):
        check(path, features)
    check(path, features, new=["tables.shop"])


def test_a_renamed_table_is_found_by_its_feature(path):
    tables = [Table("store", 20), Table("brand", 20)]
    features = Features(tables, [SparseFeature("shop", "store"), SparseFeature("brand")], FEATURES.dense)
    check(path, features, rename={"tables.shop": "tables.store"})
    with pytest.raises(ValueError, match=r"Table 'store': .*table 'shop', now ids as they are, table 'store'"):
        check(path, features)
    features = Features(tables, [SparseFeature("store"), SparseFeature("brand")], FEATURES.dense)
    with pytest.raises(ValueError, match=r"Table 'store': .* knows none of the features that read it, \['store'\]"):
        check(path, features, rename={"tables.shop": "tables.store"})


def of(features, towers, alone=None, task_sequences=(), types=None):
    """What a model of these features is."""
    words = meanings(features) | {f"'{name}' alone": f"{readers}" for name, readers in (alone or {}).items()}
    names = NetworkNames(towers, task_sequences=task_sequences)
    return Position(features=words, vocabularies={}, types=types or {}), names


def compare(before, after, features, encoder=False, **start):
    """Compares a checkpoint with a job, both as of :func:`of`."""
    (there, names), (here, network) = before, after
    rename = StartFrom("x", **start).renamed("towers")
    found = Origin(StartFrom("x", **start), Path("x"), there, ServingState(), names.renamed(rename))
    check_meaning(found, features, here, network, encoder)


def test_features_that_towers_read_alone_are_compared_for_trunk_and_towers():
    before = of(FEATURES, ["ctr", "cvr"], alone={"shop": ["cvr"]})
    same = of(FEATURES, ["cvr", "ctr"], alone={"shop": ["cvr"]})
    compare(before, same, FEATURES)
    other = of(FEATURES, ["ctr", "cvr"], alone={"shop": ["ctr"]})
    with pytest.raises(
        ValueError, match=r"has a part 'towers.ctr' that reads other features: features of tower 'ctr' alone: none, no"
    ):
        compare(before, other, FEATURES)
    with pytest.raises(ValueError, match=r"part 'towers.ctr'.* Declare the features as there, or name towers.ctr in"):
        compare(before, other, FEATURES, new=["trunk"])
    compare(before, other, FEATURES, new=["towers"])
    compare(before, other, FEATURES, rename={"towers.ctr": "towers.cvr", "towers.cvr": "towers.ctr"})
    with pytest.raises(ValueError, match=r"part 'trunk' that reads other features: order of sparse: brand, now shop"):
        compare(before, of(FEATURES, ["ctr", "cvr"], alone={"brand": ["cvr"]}), FEATURES)
    more = of(FEATURES, ["ctr", "cvr", "like"], alone={"shop": ["cvr", "like"]})
    compare(before, more, FEATURES, new=["towers.like"])
    dense = of(FEATURES, ["ctr", "cvr"], alone={"dense": ["cvr"]})
    with pytest.raises(ValueError, match=r"part 'trunk' .*order of dense: price, now "):
        compare(of(FEATURES, ["ctr", "cvr"]), dense, FEATURES)


def test_tables_in_another_order_change_the_vector():
    swapped = dataclasses.replace(FEATURES, tables=FEATURES.tables[::-1])
    with pytest.raises(ValueError, match=r"order of sparse: shop, brand, now brand, shop"):
        compare(of(FEATURES, ["ctr"]), of(swapped, ["ctr"]), swapped)


def test_the_kind_of_a_hashed_column_is_found_by_the_column():
    features = Features([Table("t", 10)], [SparseFeature("t", out_of_range="hash", column="shop")])
    before, after = (of(features, ["ctr"], types={"shop": kind}) for kind in ("integers", "strings"))
    with pytest.raises(ValueError, match=r"Table 't': .* values of 't' other rows: type integers, now strings"):
        compare(before, after, features)
    compare(before, before, features)


def in_order(names, max_length=3):
    items = {name: [SparseFeature(f"past_{name}", "item")] for name in names}
    sequences = [BehaviourSequence(name, items[name], max_length=max_length) for name in names]
    return Features([Table("item", 10)], [SparseFeature("item")], sequences=sequences)


def test_sequences_of_each_tower_are_compared_with_the_towers():
    before = of(in_order("ab"), ["ctr"], task_sequences=["a", "b"])
    after = of(in_order("ba"), ["ctr"], task_sequences=["b", "a"])
    with pytest.raises(ValueError, match=r"part 'towers.ctr'.*sequences of each tower: a, b, now b, a"):
        compare(before, after, in_order("ba"), new=["trunk"])
    longer = of(in_order("ab", 5), ["ctr"], task_sequences=["a", "b"])
    with pytest.raises(ValueError, match=r"part 'sequences.b' that reads other features: sequence 'b': the last 3"):
        compare(before, longer, in_order("ab", 5), new=["trunk", "sequences.a"])
    compare(before, longer, in_order("ab", 5), new=["sequences.a", "sequences.b"])
    compare(before, longer, in_order("ab", 5), new=["trunk", "sequences"])


def test_two_tables_swap_their_names():
    swapped = dataclasses.replace(FEATURES, sparse=[SparseFeature("shop", "brand"), SparseFeature("brand", "shop")])
    rename = {"tables.shop": "tables.brand", "tables.brand": "tables.shop"}
    swapped = dataclasses.replace(swapped, tables=FEATURES.tables[::-1])
    compare(of(FEATURES, ["ctr"]), of(swapped, ["ctr"]), swapped, rename=rename)
    with pytest.raises(ValueError, match=r"Table 'brand': .*table 'shop', now ids as they are, table 'brand'"):
        compare(of(FEATURES, ["ctr"]), of(swapped, ["ctr"]), swapped)


def test_a_table_may_not_take_the_name_of_another(path):
    with pytest.raises(
        ValueError,
        match=r"tables.brand becomes tables.shop, but the checkpoint .* has another of that name. Rename that one too, "
        r"for instance tables.shop: tables.shop_before",
    ):
        origin(path, rename={"tables.brand": "tables.shop"})
    found = origin(path, rename={"tables.brand": "tables.shop", "tables.shop": "tables.shop_before"})
    assert found.start.renamed("tables") == {"brand": "shop", "shop": "shop_before"}


def test_copies_follow_their_towers():
    def job(towers, names=("shop",)):
        features = with_own_tables(dataclasses.replace(FEATURES, own_tables=list(names)), towers)
        return of(features, towers), features

    before, _ = job(["ctr", "cvr"])
    for towers, start in (
        (["cvr", "ctr"], {}),
        (["cvr"], {}),
        (["like", "ctr", "cvr"], {"new": ["towers.like", "tables.shop:like"]}),
    ):
        compare(before, *job(towers), **start)
    rename = StartFrom("x", rename={"towers.cvr": "towers.buy"}).with_renamed_copies(
        ["shop", "shop:ctr", "shop:cvr"], ["ctr", "cvr"]
    )
    assert dict(rename.rename) == {"towers.cvr": "towers.buy", "tables.shop:cvr": "tables.shop:buy"}
    compare(before, *job(["ctr", "buy"]), rename=rename.rename)
    with pytest.raises(ValueError, match=r"copies of tower 'ctr': shop:ctr, now brand:ctr"):
        compare(before, *job(["ctr", "cvr"], ["brand"]), new=["tables.brand:ctr", "tables.brand:cvr"])


def test_copies_of_new_towers_are_new():
    start = StartFrom("x", new=["towers.like"]).with_copies(["shop"], ["ctr", "like"])
    assert start.new == ["towers.like", "tables.shop:like"]
    assert start.with_copies(["shop"], ["ctr", "like"]) == start


@pytest.mark.parametrize(
    ("entry", "name", "owner"),
    [
        ("model.embeddings.embedding_bags.shop.weight", "tables.shop", None),
        ("model.sequences.embeddings.embeddings.shop.weight", "tables.shop", None),
        ("model.trunk.embeddings.weight", "trunk.embeddings.weight", None),
        ("model.dense.mean", "dense.mean", None),
        ("model.heads.towers.1.output.bias", "towers.cvr.output.bias", "cvr"),
        ("model.heads.links.0.scale", "links.ctcvr.scale", None),
        ("model.sequences.attend.shared.0.q", "sequences.clicks.q", None),
        ("model.sequences.attend.per_task.0.1.q", "sequences.views.<cvr>.q", "cvr"),
        ("loss.balancer.weights", "balancer.balancer.weights", None),
    ],
)
def test_an_entry_has_one_name_wherever_it_stands(entry, name, owner):
    names = NetworkNames(["ctr", "cvr"], "x.Trunk", ["ctcvr"], ["clicks"], ["views"])
    address = address_of(entry, (), names, None)
    assert (address.name, address.owner) == (name, owner)
