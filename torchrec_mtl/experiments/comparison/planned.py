"""Which runs a comparison needs, each known by the job and the files that it depends on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from torchrec_mtl.data.files import find_files
from torchrec_mtl.experiments.comparison.candidates import SEED, Comparison, Overrides
from torchrec_mtl.training.checkpoint import find
from torchrec_mtl.training.job_file import overridden

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
        return overridden(self.content, {**setting, "data.test": [], SEED: TUNING_SEED})

    def final(self, setting: Overrides, seed: int) -> dict[str, Any]:
        """The job that measures a setting on the test split."""
        calibrated = bool(self.content.get("calibration"))  # which needs the validation split
        unread: Overrides = {} if calibrated else {"data.validation": []}
        return overridden(self.content, {**setting, **unread, SEED: seed})


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
        """Where its figures go: a run of any other job, or of other files, has another path; not one of other code."""
        depends: list[Any] = [self.content, _files(self.content)]
        if started := _beginnings(self.content):
            depends.append(started)
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


def _files(content: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Names and sizes of the job's local files."""
    data = content.get("data", {})
    return _sizes(path for name in ("train", "validation", "test") if data.get(name) for path in find_files(data[name]))


def _beginnings(content: Mapping[str, Any]) -> list[Any]:
    """What it reads besides rows: pretrained vectors, vocabularies, and what a checkpoint says of itself."""
    features = content.get("features") or {}
    columns = [*(features.get("sparse") or [])]
    for sequence in features.get("sequences") or []:
        columns += [*(sequence.get("items") or []), *(sequence.get("properties") or [])]
    vectors = [table["pretrained"]["path"] for table in features.get("tables") or [] if table.get("pretrained")]
    vocabularies = [str(column["vocabulary"]) for column in columns if column.get("vocabulary")]
    found: list[Any] = _sizes([*(find_files(vectors) if vectors else []), *dict.fromkeys(vocabularies)])
    if start := (content.get("training") or {}).get("start_from"):
        checkpoint = find(Path(start["checkpoint"]))
        found += [(str(path), path.read_text()) for path in sorted(checkpoint.glob("*.json"))]
    return found


def _sizes(paths: Iterable[str]) -> list[tuple[str, int]]:
    return [(path, Path(path).stat().st_size) for path in paths if Path(path).is_file()]
