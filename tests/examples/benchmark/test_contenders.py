"""The contenders compute the same thing; those that this machine cannot run say so."""

import sys

import numpy as np
import pytest
import torch

from examples.benchmark import ours as ours_module
from examples.benchmark.contender import NotMeasured
from examples.benchmark.deepctr_torch import DeepCTRTorch, make_model
from examples.benchmark.formats import write_parquet
from examples.benchmark.ours import Ours, OursBFloat16, OursFromParquet, has_bfloat16
from examples.benchmark.plain_network import plain_loss
from examples.benchmark.plain_torch import PlainTorch
from examples.benchmark.torch_rechub import TorchRecHub, make_trainer
from examples.benchmark.torchrec_loop import TorchRecLoop
from tests.examples.benchmark.tiny import tiny
from torchrec_mtl.testing.ranks import run_on_ranks

STEPS = 5


def local(value):
    """What a state dictionary holds, as this rank's plain tensor that shares its memory."""
    return value.local_shards()[0].tensor if hasattr(value, "local_shards") else value


def weights_of(ours):
    """Our weights under the names of the plain model."""
    state = {name.removeprefix("model."): local(v) for name, v in ours.pipeline._model.state_dict().items()}
    found = {name: value for name, value in state.items() if name.startswith("embeddings.")}
    for name, value in state.items():
        if name.startswith("heads.towers."):
            tower, part, *rest = name.removeprefix("heads.towers.").split(".")
            place = f"network.towers.{tower}." + (f"0.{'.'.join(rest)}" if part == "hidden" else f"1.{rest[0]}")
            found[place] = value
        elif name.startswith("trunk.levels.0.experts."):
            layer, part = name.split(".")[-2:]
            found |= {f"network.experts.{e}.{2 * int(layer)}.{part}": each for e, each in enumerate(value)}
        elif name.startswith("trunk.levels.0.gates."):
            part = name.rsplit(".", 1)[1]
            found |= {f"network.gates.{task}.{part}": gate for task, gate in enumerate(value)}
    return found


def trajectories(workload):
    """Losses of ours and of the TorchRec loop from the same weights, and plain PyTorch's first."""
    ours, loop, plain = Ours(workload), TorchRecLoop(workload), PlainTorch(workload)
    weights = weights_of(ours)
    state = {name: local(value) for name, value in loop.model.state_dict().items()}
    assert state.keys() == weights.keys()
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(weights[name])
        for table, name in zip(plain.tables, workload.tables, strict=True):
            table.weight.copy_(weights[f"embeddings.embedding_bags.{name}.weight"])
        plain.network.load_state_dict(
            {name.removeprefix("network."): v for name, v in weights.items() if name.startswith("network.")}
        )
    return [[side.train(1) for _ in range(STEPS)] for side in (ours, loop, plain)]


def all_trajectories(data):
    ours_module.has_bfloat16 = lambda: True  # it computes everywhere, if slowly
    workload = tiny(tasks=3)
    return {
        "mmoe": trajectories(workload),
        "esmm": trajectories(tiny(network="esmm")),
        "bf16": [[side(tiny()).train(STEPS)] for side in (OursBFloat16, Ours)],
        "parquet": OursFromParquet(workload, write_parquet(workload, data, 2, 48)).train(7),  # two epochs and a bit
    }


@pytest.mark.slow
def test_the_contenders_train_the_same_mathematics(tmp_path):
    (found,) = run_on_ranks(all_trajectories, 1, tmp_path)
    for network in ("mmoe", "esmm"):
        ours, loop, plain = found[network]
        assert loop == pytest.approx(ours, rel=1e-5)
        assert plain[0] == pytest.approx(ours[0], rel=1e-5), "same forward; its Adagrad is another optimizer"
        assert ours[-1] < ours[0] - 0.01, "it trains"
    (narrow,), (wide,) = found["bf16"]
    assert narrow == pytest.approx(wide, rel=0.02)
    assert narrow != wide
    assert 0 < found["parquet"] < 5


def test_the_esmm_loss_is_the_sum_written_out():
    # p = 1/2 for click, 1/4 for purchase given click: ctcvr = 1/8
    logits = torch.tensor([[0.0, -np.log(3.0)], [0.0, -np.log(3.0)]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    expected = np.log(2) + (np.log(8) + np.log(8 / 7)) / 2
    assert float(plain_loss(tiny(network="esmm"), logits, labels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "found"), [("avx2 avx512f", False), ("avx512_bf16", True), ("amx_tile amx_bf16", True)]
)
def test_bfloat16_is_detected(tmp_path, flags, found):
    (tmp_path / "cpuinfo").write_text(f"model name : x\nflags : fpu {flags} sse\n")
    assert has_bfloat16(tmp_path / "cpuinfo") == found


def test_bfloat16_is_skipped_where_the_processor_lacks_it(monkeypatch):
    monkeypatch.setattr(ours_module, "has_bfloat16", lambda: False)
    with pytest.raises(NotMeasured, match="the processor has no bfloat16 arithmetic"):
        OursBFloat16(tiny())


@pytest.mark.parametrize(
    ("module", "name", "make"),
    [("torch_rechub", "torch-rechub", make_trainer), ("deepctr_torch", "deepctr-torch", make_model)],
)
def test_peers_are_skipped_with_a_clear_note(monkeypatch, module, name, make):
    for loaded in [key for key in sys.modules if key.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)  # import fails
    with pytest.raises(NotMeasured, match=f"{name} is not installed"):
        make(tiny())
    with pytest.raises(NotMeasured, match="only its MMOE is measured"):
        make(tiny(network="esmm"))


@pytest.mark.parametrize(("module", "contender"), [("torch_rechub", TorchRecHub), ("deepctr_torch", DeepCTRTorch)])
def test_peers_train_where_they_are_installed(module, contender):
    pytest.importorskip(module)
    peer = contender(tiny())
    first = peer.train(16)
    for _ in range(10):
        last = peer.train(16)
    assert last < first
    assert peer.state_bytes == 2 * 4 * 16 * (50 + 7 + 30)
