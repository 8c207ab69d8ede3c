"""Sums and means of bags, sharded in every mixture of ways, are those of the unsharded tables."""

import itertools

import pytest
import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import Features, SparseFeature, Table
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.parity import whole
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import TableSharding, build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import SharedBottom

KINDS = ["row_wise", "table_wise", "data_parallel"]
NAMES = ["mean", "sum", "other_mean", "other_sum"]
FEATURES = Features(
    [Table(name, 20, 8, pooling=name.split("_")[-1]) for name in NAMES],
    [*(SparseFeature(name) for name in NAMES), SparseFeature("more", table="mean")],
)
PLANS = [dict(zip(NAMES, kinds, strict=True)) for kinds in itertools.product(KINDS, repeat=4) if len({*kinds}) > 1]


def make_batch(seed, rows=8):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 5, (5 * rows,), generator=generator).int()
    ids = torch.randint(0, 20, (int(lengths.sum()),), generator=generator)
    sparse = KeyedJaggedTensor([*NAMES, "more"], ids, lengths=lengths, stride=rows)
    return MultiTaskBatch(torch.zeros(rows, 0), sparse, labels={"y": torch.ones(rows)})


def differences(plans):
    """For each plan the greatest difference of any feature's bags, sharded and not."""
    found = []
    with distributed() as runtime:
        for plan in plans:
            embeddings = EmbeddingBagCollection(tables=FEATURES.embedding_bag_configs(), device=torch.device("meta"))
            model = MultiTaskModel(embeddings, SharedBottom(FEATURES.width, 1, layers=[4]), TaskHeads({"y": Tower(4)}))
            pipeline = build_train_pipeline(
                MultiTaskObjective(model, [BinaryTask("y", "y")]),
                torch.optim.Adam,
                device=runtime.device,
                constraints={table: TableSharding([kind]) for table, kind in plan.items()},
            )
            tables = {
                name: value for name, value in whole(pipeline._model.state_dict()).items() if ".embedding_bags." in name
            }
            batch = make_batch(runtime.rank.index)
            with torch.no_grad():
                sharded = {name: value.clone() for name, value in model.embeddings(batch.sparse).to_dict().items()}
            if runtime.is_main:
                plain = EmbeddingBagCollection(tables=FEATURES.embedding_bag_configs())
                plain.load_state_dict({name.removeprefix("model.embeddings."): value for name, value in tables.items()})
                expected = plain(batch.sparse).to_dict()
                assert expected.keys() == sharded.keys()
                found.append(max(float((sharded[name] - expected[name]).abs().max()) for name in expected))
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_mixture_of_sharding_types_pools_alike(ranks):
    plans = PLANS[::3]
    found = run_on_ranks(differences, ranks, plans)[0]
    assert len(found) == len(plans)
    for plan, difference in zip(plans, found, strict=True):
        assert difference < 2e-6, plan  # TorchRec adds 1e-6 to a divisor
