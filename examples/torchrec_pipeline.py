"""torchrec_mtl inside a TorchRec script that knows nothing of it.

Everything below but the model is plain TorchRec: its ``DistributedModelParallel``, its ``TrainPipelineSparseDist``, its
``KeyedOptimizerWrapper``. Run it on any number of ranks:

    torchrun --standalone --nproc_per_node 2 examples/torchrec_pipeline.py
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_mtl import MultiTaskBatch, MultiTaskModel, MultiTaskObjective
from torchrec_mtl.heads import ProbabilityProduct, TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.trunks import MMoE

SHOPS, BRANDS, DENSE = 1000, 100, 4


def make_objective() -> MultiTaskObjective:
    """ESMM on MMoE: CTR and CTCVR are trained, CVR is measured on clicks."""
    embeddings = EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(name="shop", num_embeddings=SHOPS, embedding_dim=16, feature_names=["shop"]),
            EmbeddingBagConfig(name="brand", num_embeddings=BRANDS, embedding_dim=16, feature_names=["brands"]),
        ],
    )
    trunk = MMoE(in_features=DENSE + 2 * 16, num_tasks=2, num_experts=4, layers=[64, 32])
    heads = TaskHeads(
        {"ctr": Tower(trunk.out_features), "cvr": Tower(trunk.out_features)},
        links=[ProbabilityProduct("ctcvr", of=("ctr", "cvr"))],
    )
    tasks = [
        BinaryTask("ctr", label="click"),
        BinaryTask("ctcvr", label="purchase"),
        BinaryTask("cvr", label="purchase", label_space="click", weight=0.0),
    ]
    return MultiTaskObjective(MultiTaskModel(embeddings, trunk, heads), tasks)


def make_batch(generator: torch.Generator, rows: int = 512) -> MultiTaskBatch:
    """A batch of made-up impressions: even shops are clicked more, and every third click converts."""
    shop = torch.randint(0, SHOPS, (rows,), generator=generator)
    brands = torch.randint(0, BRANDS, (2 * rows,), generator=generator)
    click = (torch.rand(rows, generator=generator) < torch.where(shop % 2 == 0, 0.5, 0.05)).float()
    return MultiTaskBatch(
        dense=torch.randn(rows, DENSE, generator=generator),
        sparse=KeyedJaggedTensor(
            ["shop", "brands"],
            torch.cat([shop, brands]),
            lengths=torch.cat([torch.ones(rows, dtype=torch.int32), torch.full((rows,), 2, dtype=torch.int32)]),
        ),
        labels={"click": click, "purchase": click * (torch.rand(rows, generator=generator) < 1 / 3)},
    )


def main(steps: int = 60) -> list[dict[str, float]]:
    """Trains and returns each step's losses."""
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", dist.get_rank() % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.manual_seed(0)

    objective = make_objective()
    tables = [parameter for name, parameter in objective.named_parameters() if "embedding_bags" in name]
    apply_optimizer_in_backward(RowWiseAdagrad, tables, {"lr": 0.1, "eps": 1e-8})
    model = DistributedModelParallel(objective, device=device)
    dense: dict[str, nn.Parameter] = dict(in_backward_optimizer_filter(model.named_parameters()))
    optimizer = CombinedOptimizer(
        [model.fused_optimizer, KeyedOptimizerWrapper(dense, lambda p: torch.optim.Adam(p, lr=0.003))]
    )
    pipeline = TrainPipelineSparseDist(model, optimizer, device)

    generator = torch.Generator().manual_seed(dist.get_rank())
    batches = iter([make_batch(generator) for _ in range(steps)])
    history = []
    for step in range(steps):
        output = pipeline.progress(batches)
        history.append({name: float(loss) for name, loss in output["losses"].items()})
        if step % 20 == 19 and dist.get_rank() == 0:
            print(f"step {step + 1}: " + "  ".join(f"{name} {loss:.4f}" for name, loss in history[-1].items()))
    assert len(pipeline._pipelined_modules) == 1, "the embeddings must be pipelined"
    dist.destroy_process_group()
    return history


if __name__ == "__main__":
    main()
