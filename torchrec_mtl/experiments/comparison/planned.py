"""Which runs a comparison needs, each known by all that it depends on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from torchrec_mtl.data.files import find_files
from torchrec_mtl.experiments.comparison.candidates import Comparison, Figure, Overrides
from torchrec_mtl.training.job_file import overridden, read_job

TUNING_SEED = 1000  # no run that is measured on the test split shares it


@dataclass(frozen=True)
class Model:
    """A model of a candidate; most candidates are a single one.

    Args:
        candidate: Name of the candidate.
        number: Its place among the candidate's models.
        content: The job file's content with what the candidate overrides.
    """

    candidate: str
    number: int
    content: Mapping[str, Any]

    def trial(self, setting: Overrides) -> dict[str, Any]:
        """The job that tries a setting: it is measured on the validation split, and knows of no test split."""
        return overridden(self.content, {**setting, "data.test": [], "training.seed": TUNING_SEED})

    def final(self, setting: Overrides, seed: int) -> dict[str, Any]:
        """The job that measures a setting on the test split."""
        calibrated = bool(self.content.get("calibration"))  # which needs the validation split
        unread: Overrides = {} if calibrated else {"data.validation": []}
        return overridden(self.content, {**setting, **unread, "training.seed": seed})


@dataclass(frozen=True)
class Planned:
    """A run that is needed.

    Args:
        model: What is trained.
        name: What it is for: "trial" or "seed_3".
        content: Its job.
    """

    model: Model
    name: str
    content: Mapping[str, Any]

    def path(self, output: Path) -> Path:
        """Where its figures go: a run of any other job, or of other files, has another path."""
        depends = [self.content, _files(self.content)]
        digest = sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:12]
        candidate = re.sub(r"\W+", "_", self.model.candidate).strip("_").lower()
        return output / "runs" / candidate / f"{self.name}_{digest}.json"


def models_of(job: Mapping[str, Any], comparison: Comparison) -> list[Model]:
    """All models, in the order of the candidates; one thread each, so that they can run side by side."""
    common = {"training.threads": 1, **comparison.common}
    return [
        Model(name, number, overridden(overridden(job, common), overrides))
        for name, models in comparison.candidates.items()
        for number, overrides in enumerate(models)
    ]


def check(models: Sequence[Model], comparison: Comparison) -> None:
    """Builds every model, the first in every setting, so that no mistake is found after an hour.

    Raises:
        ValueError: If a job is wrong, has no validation or test split, or a candidate's models do not give each figure
            once.
    """
    gives: dict[str, list[str]] = {}
    for model in models:
        for setting in comparison.settings if model is models[0] else comparison.settings[:1]:
            where = f"Candidate '{model.candidate}'" + (f" with {setting}" if setting else "")
            try:
                job = read_job({**model.final(setting, 0), "output": "unused"})
                job.converter("train")
                if not any(task.needs_fit for task in job.tasks):
                    job.objective()
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        data = model.content.get("data", {})
        if missing := [name for name in ("validation", "test") if not data.get(name)]:
            raise ValueError(
                f"{where}: data.{missing[0]} names no files. Settings are chosen on the validation split, and what was "
                f"chosen is measured on the test split."
            )
        gives.setdefault(model.candidate, []).extend(task.name for task in job.tasks if task.served)
    for name, tasks in gives.items():
        _check_figures(name, tasks, comparison.figures)


def _check_figures(candidate: str, tasks: Sequence[str], figures: Sequence[Figure]) -> None:
    for figure in figures:
        if (count := tasks.count(figure.task)) != 1:
            raise ValueError(
                f"Candidate '{candidate}': the figure {figure.name} needs one task '{figure.task}' among its models, "
                f"but found {count}. Its tasks: {tasks}."
            )


def _files(content: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Names and sizes of the job's local files."""
    data = content.get("data", {})
    files = [path for split in ("train", "validation", "test") if data.get(split) for path in find_files(data[split])]
    return [(str(path), Path(path).stat().st_size) for path in files if Path(path).is_file()]
