"""Starts a pipeline of one's own from another's checkpoint, in this process."""

from contextlib import suppress
from itertools import count

import torch

from tests.small import FEATURES, make_batch, make_embeddings
from torchrec_mtl import MultiTaskModel, MultiTaskObjective
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.layout import ALL_SHARED
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.training import StartFrom, build_train_pipeline, checkpoint, freeze, warm_start
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.position import Position
from torchrec_mtl.trunks import SharedBottom

SEEDS = count()


def small_tower(reads):
    return Tower(reads, hidden=[16])  # of few units all may be dead


def small_trunk(width, towers):
    return SharedBottom(width, towers, layers=[8])


def make_objective(towers, trunk=small_trunk, tower=small_tower, features=FEATURES, width=None, task_features=None):
    """A binary task a tower; each has other random numbers."""
    torch.manual_seed(next(SEEDS))
    made = trunk(width or features.width, len(towers))
    heads = TaskHeads({name: tower(made.out_features) for name in towers})
    model = MultiTaskModel(make_embeddings(features), made, heads, task_features=task_features or ALL_SHARED)
    return MultiTaskObjective(model, [BinaryTask(name, "click") for name in towers])


def batches(number):
    for seed in range(number):
        generator = torch.Generator().manual_seed(seed)
        yield make_batch({"click": torch.randint(0, 2, (16,), generator=generator).float()}, seed=seed)


def train(pipeline, steps=3):
    pipeline._model.train()
    run(pipeline, batches(steps))
    return pipeline


def run(pipeline, given):
    """What the pipeline gives for each batch."""
    found = []
    with suppress(StopIteration):
        while True:
            found.append(pipeline.progress(given))
    return found


def predictions(pipeline):
    """``{task: [B]}`` in eval mode."""
    pipeline._model.eval()
    with torch.no_grad():
        (found,) = run(pipeline, iter([make_batch({"click": torch.ones(16)}, seed=99)]))
    return {name: each.clone() for name, each in found["predictions"].items()}


def build(objective):
    return build_train_pipeline(objective, lambda each: torch.optim.AdamW(each, lr=0.1))


def started(directory, before, after, new=(), frozen=(), steps=4):
    """Trains one objective and starts another from it: ``(predictions before, at the start, after steps, Started)``."""
    directory = directory / f"{next(SEEDS)}"  # no two runs in one
    start = StartFrom(directory, new=list(new))
    with distributed() as runtime:
        old = train(build(before))
        checkpoint.save(directory, old, Position(step=1), runtime, keep=1)
        if frozen:
            freeze(after, list(frozen), start.new)
        pipeline = build(after)
        found = warm_start(pipeline, start)
        first = predictions(pipeline)
        return predictions(old), first, predictions(train(pipeline, steps)), found
