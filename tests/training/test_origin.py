"""What is known of a checkpoint before it is loaded, and whether it still means the same."""

import dataclasses
import json

import pytest

from torchrec_mtl.data import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.data.meaning import meanings
from torchrec_mtl.tasks import BinaryTask, RegressionTask
from torchrec_mtl.training.addresses import NetworkNames, address_of
from torchrec_mtl.training.checkpoint import Position
from torchrec_mtl.training.origin import Origin, StartFrom
from torchrec_mtl.training.serving_state import ServingState, meaning_of
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
    ServingState(fitted, tasks=declared, network=NetworkNames(["ctr", "value"])).write(tmp_path)
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
    check_meaning(origin(path, **start), features, now)


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


def test_a_renamed_table_is_found_by_its_feature(path):
    tables = [Table("store", 20), Table("brand", 20)]
    features = Features(tables, [SparseFeature("shop", "store"), SparseFeature("brand")], FEATURES.dense)
    check(path, features, rename={"tables.shop": "tables.store"})
    with pytest.raises(ValueError, match=r"Table 'store': .*table 'shop', now ids as they are, table 'store'"):
        check(path, features)
    features = Features(tables, [SparseFeature("store"), SparseFeature("brand")], FEATURES.dense)
    with pytest.raises(ValueError, match=r"Table 'store': .* knows none of the features that read it, \['store'\]"):
        check(path, features, rename={"tables.shop": "tables.store"})


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
