"""Dense parts on the meta device start as on a real one, in DistributedModelParallel, or are refused."""

import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from tests.small import make_objective
from tests.training.test_sequence_parity import COLUMNS, TABLES, make_batch, make_parts
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.data import NegativeSampling
from torchrec_mtl.dense import QuantileEncoder
from torchrec_mtl.heads import ExpectedValue, TaskHeads, Tower
from torchrec_mtl.meta import check_meta, real_device
from torchrec_mtl.sequences import DUPN, MultiHeadTargetAttention, SequenceBlock, SequenceEncoder, SequenceWidths
from torchrec_mtl.tasks import BinaryTask, RegressionTask
from torchrec_mtl.testing.modules import nan_in_fresh_memory
from torchrec_mtl.testing.trunks import Mean
from torchrec_mtl.training import build_train_pipeline
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.trunks import AdaTT, CrossStitch, HTLNet, LayerOptions, PEPNet

SAMPLING = NegativeSampling("click", rate=0.5)
TASKS = [
    BinaryTask("ctr", "click"),
    BinaryTask("cvr", "purchase", label_space="click"),
    RegressionTask("amount", "purchase", label_space="click"),
    RegressionTask("gmv", "purchase"),
]
WIDTH = 4 + 2 * 8 + 2 * 16 + 4  # dense, two features that share tables, two sequences, the user
TRUNKS = {
    "pepnet": lambda: PEPNet(WIDTH, 3, layers=[6, 4], domain=["user"], prior=["item", "dense"]),
    "adatt": lambda: AdaTT(WIDTH, 3, levels=[[6], [4]], options=LayerOptions(norm=nn.BatchNorm1d)),
    "cross_stitch": lambda: CrossStitch(WIDTH, 3, layers=[6, 4], options=LayerOptions(norm=nn.LayerNorm)),
    "htlnet": lambda: HTLNet(WIDTH, 3, layers=[6, 4]),
}
PLAIN_DMP, OURS = "their own DistributedModelParallel", "build_train_pipeline"


def make_whole(trunk):
    """Every kind of part that has parameters or buffers of its own; the tables are on meta in any case."""
    meta, width = torch.device("meta"), 8
    user = EmbeddingBagConfig(name="user", num_embeddings=20, embedding_dim=4, feature_names=["user"])
    tables = [
        EmbeddingConfig(
            name=name,
            num_embeddings=rows,
            embedding_dim=width,
            feature_names=[f"past_{name}"] + ([name] if name != "gap" else []),
        )
        for name, rows in TABLES.items()
    ]
    widths = SequenceWidths(items=16, query=16, properties=8, user=4)
    blocks = {"bought": DUPN(widths, recurrent=True), "again": MultiHeadTargetAttention(widths)}
    sequences = {name: SequenceBlock(COLUMNS, block) for name, block in blocks.items()}
    encoder = QuantileEncoder(2, quantiles=5)
    encoder.fit(np.random.default_rng(0).exponential(size=(100, 2)))
    heads = TaskHeads(
        {name: Tower(4, hidden=[4]) for name in ("ctr", "cvr", "amount")},
        links=[ExpectedValue("gmv", of=("ctr", "cvr", "amount"))],
    )
    model = MultiTaskModel(
        EmbeddingBagCollection(tables=[user], device=meta),
        TRUNKS[trunk](),
        heads,
        encoder,
        SequenceEncoder(EmbeddingCollection(tables=tables, device=meta), sequences),
    )
    return MultiTaskObjective(model, TASKS, sampling=SAMPLING)


@contextmanager
def alone():
    """A group of this process alone, gone afterwards; one that stands is used."""
    with patch.dict(os.environ):
        os.environ.pop("RANK", None)
        with distributed() as runtime:
            yield runtime


def parallel(objective, how, device):
    with nan_in_fresh_memory():
        if how == OURS:
            return build_train_pipeline(objective, torch.optim.Adam, device=device)._model
        return DistributedModelParallel(objective, device=device)


def a_batch():
    batch = make_batch(make_parts(0))
    dense = torch.randn(batch.num_rows, 2, generator=torch.Generator().manual_seed(1))
    return replace(batch, dense=dense, weights={SAMPLING.key: torch.full((batch.num_rows,), 0.5)})


def dense_state(model):
    """All parameters and buffers but those of tables, by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value for name, value in named if "embeddings" not in name}


def step(model):
    """Loss, outputs and gradients of a batch."""
    torch.manual_seed(5)  # for HTLNet's draws
    loss, output = model(a_batch())
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "embeddings" not in name}
    return loss, output["outputs"], gradients


@pytest.mark.parametrize("how", [PLAIN_DMP, OURS])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_model_on_meta_starts_and_trains_as_on_a_real_device(trunk, how):
    with alone() as runtime:
        models = []
        for place in (nullcontext(), torch.device("meta")):
            torch.manual_seed(0)
            with place:
                objective = make_whole(trunk)
            models.append(parallel(objective, how, runtime.device))
        expected, found = map(dense_state, models)
        assert expected.keys() == found.keys()
        assert all(value.isfinite().all() and value.device == runtime.device for value in found.values())
        buffers = {name for name, _ in models[0].named_buffers() if "embeddings" not in name}
        assert len(buffers) >= 5, "those of the encoder and of the balancer"
        for name in buffers:
            assert torch.equal(found[name], expected[name]), name
        with torch.no_grad():  # from equal parameters
            for one, other in zip(*(model.parameters() for model in models), strict=True):
                other.copy_(one)
        (loss, outputs, gradients), (found_loss, found_outputs, found_gradients) = map(step, models)
        torch.testing.assert_close(found_loss, loss)
        torch.testing.assert_close(found_outputs, outputs)
        torch.testing.assert_close(found_gradients, gradients)
        assert all(gradient.isfinite().all() for gradient in gradients.values())


class Raw(Tower):
    """Has a parameter of its own, but no reset_parameters."""

    def __init__(self, in_features):
        super().__init__(in_features)
        self.scale = nn.Parameter(torch.ones(()))


class Filled(Raw):
    """As it should be."""

    def reset_parameters(self):
        nn.init.ones_(self.scale)


class Constant(Tower):
    """Has a buffer of a constant."""

    def __init__(self, in_features, device=None):
        super().__init__(in_features)
        self.register_buffer("scale", torch.ones((), device=device))


def with_tower(tower):
    objective = make_objective([BinaryTask("ctr", "click")], towers=("ctr",), links=())
    model = objective.model
    return lambda: MultiTaskObjective(
        MultiTaskModel(model.embeddings, model.trunk, TaskHeads({"ctr": tower(8)})), objective.tasks
    )


@pytest.mark.parametrize("tower", [Raw, Constant])
def test_what_would_get_no_values_is_refused(tower):
    with torch.device("meta"), pytest.raises(ValueError, match=r"^\['model.heads.towers.0.scale'\] are on the meta"):
        with_tower(tower)()
    with_tower(tower)()  # on a real device all is well


def test_the_refusal_says_what_to_do():
    text = r"give those with parameters a reset_parameters\(\) that sets all they hold, .* real device \(device='cpu'\)"
    with pytest.raises(ValueError, match=text):
        check_meta(Constant(2).to("meta"))


@pytest.mark.parametrize("tower", [Filled, lambda width: Constant(width, "cpu")])
def test_what_gets_its_values_is_taken(tower):
    with torch.device("meta"):
        with_tower(tower)()


def test_a_model_that_is_moved_to_meta_is_refused_by_the_pipeline():
    objective = make_objective([BinaryTask("ctcvr", "purchase")]).to("meta")
    with alone() as runtime, pytest.raises(ValueError, match=r"^\['loss.balancer.weights'\] are on the meta device"):
        build_train_pipeline(objective, torch.optim.Adam, device=runtime.device)


class Parent(nn.Module):
    """Sets what its child holds, too."""

    def __init__(self, own):
        super().__init__()
        if own:
            self.own = nn.Parameter(torch.ones(2))
        self.listed = nn.ParameterList([torch.ones(2)])
        self.register_buffer("constant", torch.ones(2))

    def reset_parameters(self):
        for each in (*self.parameters(), *self.buffers()):
            nn.init.ones_(each)


def test_a_module_may_set_its_childrens_parameters_if_it_has_one_itself():
    """As DistributedModelParallel calls it then alone."""
    check_meta(Parent(own=True).to("meta"))
    with pytest.raises(ValueError, match=r"^\['constant', 'listed.0'\] are on the meta device"):
        check_meta(Parent(own=False).to("meta"))


def test_tables_may_stand_on_meta():
    inside = nn.ModuleDict({"tables": nn.ParameterList([torch.ones(2)]), "mean": Mean()}).to("meta")
    check_meta(inside, tables=[inside["tables"]])
    with pytest.raises(ValueError, match=r"^\['tables.0'\] are on the meta device"):
        check_meta(inside)


def test_constants_are_made_where_everything_is_but_on_meta():
    assert real_device() == torch.device("cpu")
    with torch.device("meta"):
        assert real_device() == torch.device("cpu")
