"""Shows the inside of a job's network after each evaluation: figures, warnings, curves and a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchrec_mtl.inside import InsideView, Level, warnings_of
from torchrec_mtl.inside.plot import draw_inside
from torchrec_mtl.training.reporting import Reporter, write_metrics
from torchrec_mtl.training.session import Session


def inside_view(session: Session) -> InsideView | None:
    """A view of the session's trunk; ``None`` if the job wants none, or nothing in the trunk shows itself."""
    model = session.model
    view = InsideView(model.trunk, model.heads.tower_names) if session.job.training.inside else None
    return view if view is not None and view.places else None


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
