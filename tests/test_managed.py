"""Managed collision: declarations, refusals, and what of it runs on CPU."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.synthetic import impressions, job, write_job, write_split
from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective, cli
from torchrec_mtl.data import BehaviourSequence, Features, SparseFeature, Table
from torchrec_mtl.data.hashing import hash_values
from torchrec_mtl.data.ids import mapping_of
from torchrec_mtl.data.table import ManagedCollision
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.managed import ManagedEmbeddings, check_device, embedding_bags
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableSharding, build_train_pipeline, checkpoint, pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.position import Position
from torchrec_mtl.training.sharding import plan_sharding, sharding_of
from torchrec_mtl.trunks import SharedBottom

ROWS = 8
IDS = [3, 2**62, 2**63 - 2, 12_345_678_901]  # far beyond the table's rows


def features(interval=2, **feature):
    managed = ManagedCollision(interval)
    return Features(
        [Table("shop", ROWS, 4, managed_collision=managed), Table("brand", ROWS, 4, managed_collision=managed)],
        [SparseFeature("shop", **feature), SparseFeature("brand")],
    )


def objective(declared, device="cpu"):
    torch.manual_seed(0)
    embeddings = embedding_bags(declared, torch.device(device))
    model = MultiTaskModel(embeddings, SharedBottom(declared.width, 1, layers=[8]), TaskHeads({"ctr": Tower(8)}))
    return MultiTaskObjective(model, [BinaryTask("ctr", "click")])


def batch(ids=IDS):
    lengths = torch.ones(2 * len(ids), dtype=torch.int32)
    return MultiTaskBatch(
        dense=torch.zeros(len(ids), 0),
        sparse=KeyedJaggedTensor(["shop", "brand"], torch.tensor([*ids, *ids]), lengths=lengths, stride=len(ids)),
        labels={"click": (torch.arange(len(ids)) % 2).float()},
    )


@pytest.mark.parametrize("interval", [0, -3])
def test_an_interval_is_positive(interval):
    with pytest.raises(ValueError, match=f"eviction_interval must be at least 1 step, but found {interval}"):
        ManagedCollision(interval)


@pytest.mark.parametrize("own", [{"out_of_range": "hash"}, {"out_of_range": "oov"}, {"boundaries": [1.0]}])
def test_a_feature_of_a_managed_table_has_no_way_of_its_own(own):
    with pytest.raises(ValueError, match=r"Feature 'shop': table 'shop' has managed_collision.*Leave out"):
        features(**own)


def test_managed_and_other_tables_are_not_mixed():
    tables = [Table("shop", ROWS, managed_collision=ManagedCollision()), Table("brand", ROWS)]
    with pytest.raises(ValueError, match=r"Tables \['shop'\] have managed_collision, but \['brand'\] do not"):
        Features(tables, [SparseFeature("shop"), SparseFeature("brand")])


def test_tables_of_sequences_are_not_managed():
    tables = [Table("shop", ROWS, managed_collision=ManagedCollision())]
    steps = [BehaviourSequence("history", items=[SparseFeature("shops", table="shop")], query=["shop"])]
    with pytest.raises(ValueError, match=r"Tables \['shop'\] are read by behaviour sequences.*not offered"):
        Features(tables, [SparseFeature("shop")], sequences=steps)


@pytest.mark.parametrize(
    "values", [pa.array([-1, 0, 2**63 - 1, -(2**63)]), pa.array(["", "shop 1", "x" * 30]).dictionary_encode()]
)
def test_an_id_is_the_hash_modulo_the_number_that_marks_a_free_row(values):
    mapping = mapping_of(features().sparse[0], features().tables[0])
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    expected = [int(number) % (2**63 - 1) for number in hash_values(plain)]  # Python's own integers
    assert mapping(values).tolist() == expected
    assert mapping(values).dtype == np.int64
    assert mapping.check_bound(2**63 - 1, "file") is None
    assert mapping.check_type(pa.float32()) is not None


def test_on_cpu_the_text_names_tables_reason_and_ways_out():
    with pytest.raises(
        ValueError, match=r"Tables \['shop', 'brand'\].*runs on cpu.*no CPU kernel.*out_of_range: hash.*vocabulary"
    ):
        check_device(features().managed_tables, torch.device("cpu"))
    check_device(features().managed_tables, torch.device("cuda"))
    check_device([], torch.device("cpu"))


def test_a_job_on_cpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for split in ("train", "validation", "test"):
        write_split(tmp_path / split, impressions(64))
    content = job(tmp_path)
    for table in content["features"]["tables"]:
        table["managed_collision"] = {"eviction_interval": 10}
    with pytest.raises(ValueError, match=r"Tables \['shop', 'brands'\] are declared with managed_collision"):
        cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content)])
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_unsharded_it_trains_and_gives_rows_to_ids():
    managed = objective(features(interval=2))
    optimizer = torch.optim.SGD(managed.parameters(), lr=0.5)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss, _ = managed(batch())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    # at first all ids read one row, so clicks cannot be told apart: at best log 2; then each has its own
    assert losses[-1] < losses[1]
    embeddings = managed.eval().model.embeddings
    shop = embeddings(batch([*IDS, *IDS, 77]).sparse)["shop"]
    torch.testing.assert_close(shop[:4], shop[4:8], rtol=0, atol=0)  # equal ids, equal rows
    table = dict(managed.named_parameters())["model.embeddings.collection._embedding_module.embedding_bags.shop.weight"]
    rows = [torch.isclose(table, vector).all(dim=1).nonzero().item() for vector in shop]
    assert len({*rows[:4]}) == 4, "different ids, different rows while there are free ones"
    assert rows[8] == ROWS - 1, "an id that was never seen reads the last row"
    again = embeddings(batch([*IDS, *IDS, 77]).sparse)["shop"]
    torch.testing.assert_close(shop, again, rtol=0, atol=0)  # evaluation moves no row


def counts(built):
    """This rank's shard of the occurrences that the map of shops has counted."""
    state = built._model.state_dict()
    (name,) = (name for name in state if name.endswith("shop._mch_counts"))
    return state[name].local_shards()[0].tensor


def a_step_on_a_rank(interval, directory):
    """Refusal, then steps with the refusal off: what a CPU can show of the way to a GPU."""
    with distributed() as runtime:
        made = objective(features(interval), "meta")
        try:
            build_train_pipeline(made, torch.optim.Adam, device=runtime.device)
        except ValueError as error:
            text = str(error)
        pipeline.check_device = lambda tables, device: None
        try:
            wrong = {"brand": TableSharding(["table_wise"])}
            build_train_pipeline(made, torch.optim.Adam, device=runtime.device, constraints=wrong)
        except ValueError as error:
            text += str(error)
        plan = plan_sharding(made, torch.device("cuda"))  # the planner needs no GPU to plan for one
        assert sharding_of(plan) == {"shop": "row_wise", "brand": "row_wise"}
        rows = {table: TableSharding(["row_wise"]) for table in ("shop", "brand")}
        built = build_train_pipeline(made, torch.optim.Adam, device=runtime.device, constraints=rows)
        batches = iter([batch(), batch(), batch()])
        losses = [float(built.progress(batches)["loss"]) for _ in range(3)]
        counts(built).fill_(7)
        saved = checkpoint.save(directory, built, Position(step=3), runtime, keep=1)
        counts(built).fill_(0)
        checkpoint.load_model(saved, built)
        return text, losses, len(built._pipelined_modules), counts(built).tolist()


@pytest.mark.parametrize("ranks", [1, 2])
def test_sharded_it_is_refused_on_cpu_but_planned_pipelined_and_saved(ranks, tmp_path):
    for text, losses, pipelined, restored in run_on_ranks(a_step_on_a_rank, ranks, 100, tmp_path):
        assert "Tables ['shop', 'brand'] are declared with managed_collision" in text
        assert "Table 'brand' has managed_collision, and TorchRec shards such tables by ['row_wise'] only" in text
        assert np.isfinite(losses).all()
        assert pipelined == 1
        assert restored == [7] * (ROWS // ranks), "a checkpoint holds the map"


def test_it_says_what_it_holds():
    made = embedding_bags(features(), torch.device("meta"))
    assert isinstance(made, ManagedEmbeddings)
    assert [config.name for config in made.embedding_bag_configs()] == ["shop", "brand"]
