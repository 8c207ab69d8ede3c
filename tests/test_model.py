"""From a batch to named outputs."""

import re

import pytest
import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.small import FEATURES, make_batch, make_embeddings, make_model
from torchrec_mtl import MultiTaskBatch, MultiTaskModel
from torchrec_mtl.data import DenseFeature, Features, SparseFeature, Table
from torchrec_mtl.dense import QuantileEncoder
from torchrec_mtl.heads import ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.trunks import MMoE, SharedBottom


@pytest.mark.parametrize("rows", [1, 5])
def test_every_output_has_one_value_a_row(rows):
    outputs = make_model()(make_batch({"click": [0.0] * rows}))
    assert list(outputs) == ["ctr", "cvr", "ctcvr"]
    assert {tuple(output.shape) for output in outputs.values()} == {(rows,)}


def test_an_output_may_have_several_values():
    outputs = make_model(towers=("ctr", "value"), links=(), outputs=3)(make_batch({"click": [0, 1]}))
    assert {tuple(output.shape) for output in outputs.values()} == {(2, 3)}


def test_the_model_equals_its_parts_written_out():
    """Pooled by a loop over bags, in the order [dense | shop | recent shops]; then the network's own layers."""
    model, batch = make_model(), make_batch({"click": [0] * 6})
    table = model.embeddings.embedding_bags["shop"].weight
    rows = []
    keys = batch.sparse.keys()
    for i in range(6):
        pooled = [sum((table[j] for j in batch.sparse[key].to_dense()[i]), torch.zeros(4)) for key in keys]
        rows.append(torch.cat([batch.dense[i], *pooled]))
    shared = torch.relu(torch.stack(rows) @ model.trunk.bottom[0].weight.T + model.trunk.bottom[0].bias)
    outputs = model(batch)
    for name, tower in zip(("ctr", "cvr"), model.heads.towers, strict=True):
        torch.testing.assert_close(outputs[name], tower(shared))
    product = outputs["ctr"].sigmoid() * outputs["cvr"].sigmoid()
    torch.testing.assert_close(outputs["ctcvr"].sigmoid(), product)


def test_a_model_needs_no_dense_feature():
    features = Features([Table("shop", 5, 8)], [SparseFeature("shop")])
    model = MultiTaskModel(make_embeddings(features), MMoE(8, 1, layers=[4]), TaskHeads({"ctr": Tower(4)}))
    sparse = KeyedJaggedTensor.from_lengths_sync(["shop"], torch.tensor([1, 4]), torch.tensor([1, 1]))
    assert model(MultiTaskBatch(torch.zeros(2, 0), sparse))["ctr"].shape == (2,)


def test_one_backward_trains_every_part():
    model = make_model()
    model(make_batch({"click": [0.0] * 30}))["ctcvr"].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.count_nonzero(), name


def heads_of(names, width=8):
    return TaskHeads({name: Tower(width) for name in names})


@pytest.mark.parametrize(("tasks", "names"), [(3, ["ctr", "cvr"]), (1, ["ctr", "cvr"]), (2, ["ctr"])])
def test_the_trunk_has_as_many_tasks_as_there_are_towers(tasks, names):
    text = (
        f"The trunk makes vectors for {tasks} tasks, but there are {len(names)} towers: {names}. "
        f"Build the trunk with num_tasks={len(names)}."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        MultiTaskModel(make_embeddings(), SharedBottom(10, tasks, layers=[8]), heads_of(names))


def test_links_are_no_towers():
    heads = TaskHeads({"ctr": Tower(8), "cvr": Tower(8)}, [ProbabilityProduct("ctcvr", of=("ctr", "cvr"))])
    MultiTaskModel(make_embeddings(), SharedBottom(FEATURES.width, 2, layers=[8]), heads)


@pytest.mark.parametrize("width", [1, 7])
def test_the_trunk_is_at_least_as_wide_as_the_embeddings(width):
    text = (  # one table of dimension 4, read by two features
        f"The trunk reads {width} features, but the embeddings alone are 8 wide. "
        f"Build the trunk with in_features = 8 + the number of dense features."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        MultiTaskModel(make_embeddings(), SharedBottom(width, 1, layers=[8]), heads_of(["ctr"]))


def test_a_batch_with_other_dense_features_than_the_trunk_reads_is_refused():
    model = MultiTaskModel(make_embeddings(), SharedBottom(10, 1, layers=[8]), heads_of(["ctr"]))  # 8 of the tables
    batch = make_batch({"click": torch.zeros(3)})
    batch.dense = torch.randn(3, 3)
    text = (
        "The batch has 3 dense features, but the model was built for 2: what the trunk reads beside the embeddings. "
        "Build the trunk with in_features=11, or give the batch 2."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        model(batch)


def test_a_tower_of_another_width_than_the_trunk_is_refused():
    """The docstring promises a ValueError where the trunk's widths do not fit the towers."""
    with pytest.raises(ValueError, match=r"8.*16|16.*8"):
        MultiTaskModel(make_embeddings(), SharedBottom(10, 1, layers=[8]), heads_of(["ctr"], width=16))


def test_a_dense_encoder_widens_the_features():
    features = Features([Table("shop", 10, 4)], [SparseFeature("shop")], [DenseFeature("price")])
    embeddings = EmbeddingBagCollection(tables=features.embedding_bag_configs())
    heads = TaskHeads({"ctr": Tower(3, hidden=[])})
    trunk = SharedBottom(2 + 4, 1, layers=[3])
    MultiTaskModel(embeddings, trunk, heads, QuantileEncoder(1))
    with pytest.raises(ValueError, match=r"encoder makes 4 and the embeddings 4\. Build the trunk with"):
        MultiTaskModel(embeddings, trunk, heads, QuantileEncoder(2))
