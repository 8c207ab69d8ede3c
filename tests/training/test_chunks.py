"""Tables saved in pieces load onto any sharding, and no piece is large."""

import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp

from torchrec_mtl.testing.parity import FEATURES, load_whole, make_objective, rank_batches, whole
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableOptimizer, TableSharding, build_train_pipeline, chunks
from torchrec_mtl.training.chunks import ChunkedSavePlanner
from torchrec_mtl.training.distributed import distributed


def save(state, folder):
    dcp.save(state, checkpoint_id=str(folder), planner=ChunkedSavePlanner())


def pieces(folder):
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    return {
        name: [tuple(c.sizes) for c in found.chunks]
        for name, found in metadata.state_dict_metadata.items()
        if hasattr(found, "chunks")
    }


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((10, 4), [(3, 4)] * 3 + [(1, 4)]),
        ((3, 4), [(3, 4)]),
        ((7,), [(7,)]),
        ((2, 100), [(1, 100)] * 2),
        ((0, 4), [(0, 4)]),
    ],
)
def test_large_tensors_are_saved_by_rows_and_load_whole(tmp_path, monkeypatch, shape, expected):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 48)  # three rows of four floats
    table = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    save({"table": table, "step": 3}, tmp_path)
    assert pieces(tmp_path)["table"] == expected
    loaded = {"table": torch.full(shape, -1.0), "step": 0}
    dcp.load(loaded, checkpoint_id=str(tmp_path))
    assert torch.equal(loaded["table"], table)
    assert loaded["step"] == 3


def test_a_scalar_is_saved(tmp_path):
    save({"scalar": torch.tensor(2.5)}, tmp_path)
    loaded = {"scalar": torch.tensor(0.0)}
    dcp.load(loaded, checkpoint_id=str(tmp_path))
    assert loaded["scalar"] == 2.5


def reshard(folder, before, after):
    """Trains a step sharded one way, saves in tiny chunks, loads into a pipeline sharded another way."""
    chunks.CHUNK_BYTES = 4 * 16 * 3
    with distributed() as runtime:
        states = []
        for sharding in (before, after):
            pipeline = build_train_pipeline(
                make_objective("meta"),
                lambda p: torch.optim.SGD(p, lr=0.1),
                TableOptimizer(lr=0.05),
                device=runtime.device,
                constraints={t.name: TableSharding([sharding]) for t in FEATURES.tables},
            )
            model = pipeline._model
            if sharding == before and not states:
                load_whole(model.state_dict(), make_objective("cpu").state_dict())
                pipeline.progress(iter(rank_batches(runtime.rank.world_size, runtime.rank.index)[:1]))
                dcp.save(model.state_dict(), checkpoint_id=folder, planner=ChunkedSavePlanner())
            else:
                state = model.state_dict()
                dcp.load(state, checkpoint_id=folder)
                model.load_state_dict(state)
            states.append(whole(model.state_dict()))
        return states


@pytest.mark.parametrize(("before", "after"), [("row_wise", "table_wise"), ("data_parallel", "row_wise")])
def test_chunks_load_onto_another_sharding(tmp_path, before, after):
    saved, loaded = run_on_ranks(reshard, 2, str(tmp_path / "checkpoint"), before, after)[0]
    assert len(pieces(tmp_path / "checkpoint")["model.embeddings.embedding_bags.shop.weight"]) >= 40 // 3
    for name, value in saved.items():
        assert torch.equal(loaded[name], value), name
