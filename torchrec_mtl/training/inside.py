"""Shows the inside of a job's network: figures, warnings, curves and a picture of each evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from torchrec_mtl.data.reader import BatchReader
from torchrec_mtl.inside import InsideView, Level, warnings_of
from torchrec_mtl.inside.plot import draw_inside
from torchrec_mtl.training.position import Position
from torchrec_mtl.training.reporting import Reporter, write_metrics
from torchrec_mtl.training.session import Session


def inside_view(session: Session) -> InsideView | None:
    """A view of the session's trunk; ``None`` if the job wants none, or nothing in the trunk shows itself."""
    model = session.model
    view = InsideView(model.trunk, model.heads.tower_names) if session.job.training.inside else None
    return view if view is not None and view.places else None


@contextmanager
def watched_step(session: Session, reader: BatchReader, position: Position, reporter: Reporter) -> Iterator[None]:
    """Watches the training step after a position, if the job wants it: of a step, curves alone.

    Args:
        session: The session that trains.
        reader: Reads this rank's share.
        position: What was trained, on every rank; its next batch is watched, without the padding.
        reporter: Holds the curves.
    """
    training, step = session.job.training, position.step + 1
    view = None
    if training.inside_every and step % (training.log_every * training.inside_every) == 0:
        view = inside_view(session)
    if view is None:
        yield
        return
    left = reader.stop - reader.start - position.batch * reader.batch_size
    with view.watch(lambda: max(left, 0)):
        yield
    reporter.scalars(curves(view.figures(session.runtime.control), "train_inside"), step)


def report_inside(session: Session, levels: Sequence[Level], split: str, step: int, reporter: Reporter) -> None:
    """Prints warnings and writes ``inside_<split>.json``, ``inside_<split>.png`` and TensorBoard's curves, on rank 0.

    Args:
        session: The session that measured.
        levels: What was seen.
        split: What was measured.
        step: Steps that were trained.
        reporter: Prints, and holds the curves.
    """
    warnings = warnings_of(levels, session.job.training.inside_bounds)
    for text in warnings:
        reporter.say(f"{split}, inside: {text}")
    output = session.job.output
    seen = {level.name: level.as_json() for level in levels}
    write_metrics(output / f"inside_{split}.json", {"split": split, "step": step, "warnings": warnings, "levels": seen})
    reporter.scalars(curves(levels, f"{split}_inside"), step)
    if levels:
        picture = draw_inside(levels, output / f"inside_{split}.png", f"{split}, step {step:,}")
        reporter.picture(f"{split}_inside", picture, step)


def curves(levels: Sequence[Level], prefix: str) -> dict[str, float]:
    """Points for TensorBoard: each gate's entropy, each expert's use and each level's most similar pair."""
    found: dict[str, float] = {}
    for level in levels:
        begin = f"{prefix}/{level.name}"
        found |= {f"{begin}/entropy/{name}": float(e) for name, e in zip(level.readers, level.entropy, strict=True)}
        found |= {f"{begin}/use/{name}": float(use) for name, use in zip(level.experts, level.use, strict=True)}
        if level.similarity is not None and len(level.experts) > 1:
            found[f"{begin}/most_similar"] = float(_largest(level.similarity))
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _largest(similarity: np.ndarray) -> float:
    pairs = similarity[np.triu_indices(len(similarity), k=1)]
    return pairs[np.isfinite(pairs)].max(initial=-1.0)
