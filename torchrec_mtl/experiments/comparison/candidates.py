"""What is compared, as a YAML file beside the job says it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from torchrec_mtl.hints import did_you_mean

SEED = "training.seed"
Overrides = dict[str, Any]  # {dotted name in the job file: value}
Metrics = Mapping[str, Mapping[str, float]]  # {task: {metric: value}}


@dataclass(frozen=True)
class Figure:
    """A figure that is compared.

    Args:
        task: Name of a task.
        metric: One of its metrics.
        better: Whether "higher" or "lower" values are better.
        weight: How much it counts when settings are chosen.

    Raises:
        ValueError: If ``better`` is neither, or the weight is not positive.
    """

    task: str
    metric: str
    better: Literal["higher", "lower"]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"Figure {self.name}: better must be 'higher' or 'lower', but found {self.better!r}.")
        if not self.weight > 0:
            raise ValueError(f"Figure {self.name}: weight must be positive, but found {self.weight}.")

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.task} {self.metric}"

    def of(self, metrics: Metrics) -> float:
        """Its value among a run's metrics."""
        return metrics[self.task][self.metric]


@dataclass(frozen=True)
class Comparison:
    """Candidates, their tuning and what is measured.

    Args:
        figures: What is compared.
        baseline: Name of the candidate to which the others' differences are taken.
        candidates: ``{name: models}``, a model being what it overrides in the job. A candidate is one model for all
            tasks, or several which share nothing, each with tasks of its own.
        tuning: ``{dotted name: values}``: every model is tried with each combination of the values.
        common: What is overridden in the job for all candidates.

    Raises:
        ValueError: If there is no figure or candidate, the baseline is none of them, a name has no value to try, or a
            candidate overrides what the runs themselves decide: what is tuned, or the seed.
    """

    figures: Sequence[Figure]
    baseline: str
    candidates: Mapping[str, Sequence[Overrides]]
    tuning: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    common: Overrides = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.figures or not self.candidates:
            raise ValueError("A comparison needs at least one figure and one candidate.")
        if self.baseline not in self.candidates:
            raise ValueError(
                f"The baseline '{self.baseline}' is not among the candidates. Found {list(self.candidates)}"
                f"{did_you_mean(self.baseline, self.candidates)}"
            )
        for name, values in self.tuning.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"tuning: '{name}' needs a list of values to try, but found {values!r}.")
        for name, models in self.candidates.items():
            if not models or not all(isinstance(model, dict) for model in models):
                raise ValueError(
                    f"Candidate '{name}' must be a mapping of what it overrides in the job, or a list of such, but "
                    f"found {models!r}."
                )
            for override in itertools.chain(*models):
                self._check_override(name, override)

    def _check_override(self, candidate: str, override: str) -> None:
        if override == SEED:
            raise ValueError(f"Candidate '{candidate}' overrides {SEED}, which each run has its own of. Leave it out.")
        if tuned := [name for name in self.tuning if override == name or override.startswith(f"{name}.")]:
            raise ValueError(
                f"Candidate '{candidate}' overrides {override}, but tuning tries values of {tuned[0]} for every "
                f"candidate, and these would win. Leave it out of one of the two."
            )

    @property
    def settings(self) -> list[Overrides]:
        """Every combination of the values that are tried: the same for each model."""
        return [dict(zip(self.tuning, values, strict=True)) for values in itertools.product(*self.tuning.values())]

    def only(self, names: Sequence[str]) -> Comparison:
        """The same with some of the candidates, and the baseline.

        Raises:
            ValueError: If there is no such candidate.
        """
        for name in names:
            if name not in self.candidates:
                raise ValueError(
                    f"No candidate '{name}'. Found {list(self.candidates)}{did_you_mean(name, self.candidates)}"
                )
        kept = {name: models for name, models in self.candidates.items() if name in (*names, self.baseline)}
        return Comparison(self.figures, self.baseline, kept, self.tuning, self.common)


def read_comparison(path: Path) -> Comparison:
    """Reads the candidates' file.

    Raises:
        ValueError: If it cannot be read as one; the text names the file.
    """
    content = read_yaml(path)
    if odd := sorted({*content} - {*Comparison.__dataclass_fields__}):
        known = list(Comparison.__dataclass_fields__)
        raise ValueError(f"{path}: {odd} mean nothing here. Known: {known}{did_you_mean(odd[0], known)}")
    try:
        figures = [Figure(**each) for each in content.pop("figures", [])]
        candidates = {
            name: models if isinstance(models, list) else [models]
            for name, models in content.pop("candidates", {}).items()
        }
        return Comparison(figures, candidates=candidates, **content)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        ValueError: If there is none.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"'{path}' cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004  # a file is wrong, not an argument
            f"'{path}' must hold a mapping, but found {type(content).__name__}."
        )
    return content
