"""bfloat16 products while training: what stays float32, and what it costs."""

import numpy as np
import pytest
import torch

from tests.synthetic import impressions, job, write_job, write_split
from torchrec_mtl import cli
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.autocast import autocast, slower_products
from torchrec_mtl.training.distributed import distributed


class Seen(torch.nn.Module):
    """Gives the type that a product was made in."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, batch):
        return batch.new_zeros(()), self.layer(batch).dtype


def test_products_are_narrow_while_training_alone():
    model = Seen()
    forward = autocast(model, torch.device("cpu"), torch.bfloat16)
    batch = torch.randn(3, 2)
    assert forward(batch)[1] == torch.bfloat16
    model.eval()
    assert forward(batch)[1] == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    assert autocast(model, torch.device("cpu"), None) is None


def test_a_step_reads_the_weights_of_its_own_time():
    model = Seen()
    model.forward = lambda batch: (batch.new_zeros(()), model.layer(batch))
    forward, batch = autocast(model, torch.device("cpu"), torch.bfloat16), torch.ones(1, 2)
    before = forward(batch)[1]
    with torch.no_grad():
        model.layer.bias.add_(8)
    torch.testing.assert_close(forward(batch)[1].float(), before.float() + 8, atol=0.1, rtol=0)


def trained(root, jobs):
    """Test metrics, and the types of parameters, gradients and losses, of each job."""
    from torchrec_mtl.training import checkpoint

    found, save = {}, checkpoint.save
    with distributed():
        for name, path in jobs.items():
            types = set()

            def spy(directory, pipeline, *others, types=types):
                for parameter in pipeline._model.parameters():
                    types.update(each.dtype for each in (parameter, parameter.grad) if each is not None)
                return save(directory, pipeline, *others)

            checkpoint.save = spy
            try:
                found[name] = cli.run(["train", "--config", path]), types
            finally:
                checkpoint.save = save
    return found


@pytest.mark.slow
def test_the_auc_stays_within_a_thousandth(tmp_path):
    write_split(tmp_path / "train", impressions(20_000, seed=1), row_group_size=4096)
    write_split(tmp_path / "test", impressions(20_000, seed=3), row_group_size=4096)
    content = job(tmp_path)
    content["data"] |= {"validation": [], "batch_size": 256, "shuffle_rows": 4096}
    for tower in content["network"]["towers"].values():
        tower["init_args"]["options"] = {"dropout": 0.0}
    jobs = {}
    for name, narrow in (("float32", None), ("bfloat16", "bfloat16")):
        training = content["training"] | {"autocast": narrow}
        changed = content | {"training": training, "output": str(tmp_path / name)}
        jobs[name] = write_job(tmp_path / f"{name}.yaml", changed)
    (found,) = run_on_ranks(trained, 1, tmp_path, jobs)
    (exact, types), (narrow, narrow_types) = found["float32"], found["bfloat16"]
    assert types == narrow_types == {torch.float32}
    for task in ("ctr", "ctcvr"):
        assert exact[task]["auc"] > 0.6
        assert narrow[task]["auc"] == pytest.approx(exact[task]["auc"], abs=0.001)
        assert narrow[task]["auc"] != exact[task]["auc"], "it was not trained in bfloat16"
    assert np.isfinite(narrow["value"]["rmse"])


@pytest.mark.parametrize(("has", "told"), [({}, True), ({"avx512_bf16": True}, False), ({"amx_bf16": True}, False)])
def test_a_processor_without_the_arithmetic_is_told(monkeypatch, has, told):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", **has})
    assert bool(slower_products("bfloat16", torch.device("cpu"))) == told
    assert slower_products(None, torch.device("cpu")) is None
    assert slower_products("bfloat16", torch.device("meta")) is None


def test_only_bfloat16_is_offered(tmp_path):
    content = job(tmp_path)
    content["training"] |= {"autocast": "float16"}
    with pytest.raises(Exception, match=r"(?s)training.autocast.*Literal\['bfloat16'\].*Given value: float16"):
        cli.run(["train", "--config", write_job(tmp_path / "job.yaml", content)])
