"""Tables of a comparison: mean ± standard error over seeds, and differences to the baseline seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from torchrec_mtl.experiments.comparison.candidates import Comparison, Metrics, Overrides
from torchrec_mtl.experiments.comparison.run import Cost
from torchrec_mtl.experiments.statistics import mean_and_error
from torchrec_mtl.training.reporting import write_metrics

Summary = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """What is known of a model.

    Args:
        candidate: Name of its candidate.
        setting: The setting that was chosen.
        metrics: Test metrics, for each seed.
        cost: Its parameters and the time of a step.
    """

    candidate: str
    setting: Overrides
    metrics: Sequence[Metrics]
    cost: Cost


def summarize(found: Sequence[Measurement], comparison: Comparison) -> Summary:
    """All that is reported, as ``report.json`` holds it.

    The metrics of a candidate's models are put together, and their costs summed.
    """
    candidates: dict[str, list[Measurement]] = {}
    for each in found:
        candidates.setdefault(each.candidate, []).append(each)
    values = {name: _values(models, comparison) for name, models in candidates.items()}
    rows = {}
    for name, models in candidates.items():
        figures = {}
        for figure, own in values[name].items():
            change, change_error = mean_and_error(own - values[comparison.baseline][figure])
            mean, error = mean_and_error(own)
            figures[figure] = {
                "values": own.tolist(),
                **{"mean": mean, "error": error, "change": change, "change_error": change_error},
            }
        cost = asdict(reduce(add, (each.cost for each in models)))
        rows[name] = {**cost, "settings": [each.setting for each in models], "figures": figures}
    return {
        "baseline": comparison.baseline,
        "seeds": len(found[0].metrics),
        "trials": len(comparison.settings),
        "tuning": dict(comparison.tuning),
        "better": {figure.name: figure.better for figure in comparison.figures},
        "candidates": rows,
    }


def _values(models: Sequence[Measurement], comparison: Comparison) -> dict[str, np.ndarray]:
    """``{figure: its value for each seed}``; a candidate's models have different tasks."""
    found = {}
    for figure in comparison.figures:
        (model,) = [each for each in models if figure.task in each.metrics[0]]
        numbers = [figure.of(metrics) for metrics in model.metrics]
        found[figure.name] = np.array([np.nan if number is None else number for number in numbers], dtype=float)
    return found


def rows_of(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table: of each candidate its figures, their differences to the baseline, and its cost."""
    figures = list(summary["better"])
    heads = [
        "",
        *(part for name in figures for part in (name, "difference")),
        "parameters beside tables",
        "in tables",
        "ms a step",
    ]
    rows = []
    for name, found in summary["candidates"].items():
        cells = []
        for figure in figures:
            numbers = found["figures"][figure]
            is_baseline = name == summary["baseline"]
            change = "" if is_baseline else _text(numbers["change"], numbers["change_error"], "+")
            cells += [_text(numbers["mean"], numbers["error"]), change]
        sizes = [f"{found['parameters']:,}", f"{found['table_parameters']:,}", f"{found['step_ms']:.1f}"]
        rows.append([name, *cells, *sizes])
    return heads, rows


def _text(value: float, error: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")


def _setting(setting: Overrides) -> str:
    """The names' last parts do: the file of the candidates has them whole."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in setting.items())


def title_of(summary: Summary) -> str:
    """What the numbers are."""
    count = summary["seeds"]
    over = "one seed" if count == 1 else f"mean ± standard error of {count} seeds"
    better = ", ".join(f"{name}: {better} is better" for name, better in summary["better"].items())
    return f"Test split, {over}; difference to {summary['baseline']}, seed by seed. {better}."


def by_chance(summary: Summary) -> str:
    """How many differences of a size chance alone brings, by Student's t; empty where one seed tells nothing."""
    count, freedom = (len(summary["candidates"]) - 1) * len(summary["better"]), summary["seeds"] - 1
    if not (count and freedom):
        return ""
    from scipy.stats import t  # noqa: PLC0415  # its import takes a second

    two, three = (2 * count * t.sf(errors, freedom) for errors in (2, 3))
    return (
        f"Where candidates do not differ at all, chance brings {two:.1f} of the {count} differences beyond two "
        f"standard errors and {three:.1f} beyond three (Student's t, {freedom} degree{'s' * (freedom > 1)} of freedom)."
    )


def at_edges(summary: Summary) -> list[str]:
    """Tuned numbers of which more than half of the models chose the least or the greatest that was tried.

    Zero is no edge: there is nothing beyond a dropout of zero.
    """
    chosen = [setting for each in summary["candidates"].values() for setting in each["settings"]]
    found = []
    for name, values in summary["tuning"].items():
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) < len(values) or len(set(values)) == 1:
            continue
        for edge in (min(values), max(values)):
            count = sum(setting[name] == edge for setting in chosen)
            if edge and 2 * count > len(chosen):
                found.append(
                    f"{name}: {count} of {len(chosen)} models chose {edge}, the edge of what was tried ({values}). "
                    f"Values beyond it may be better yet."
                )
    return found


def markdown(summary: Summary) -> str:
    """The table, the settings that were chosen on the validation split, and how to read them."""
    heads, rows = rows_of(summary)
    lines = [heads, ["---"] * len(heads), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    chosen = "".join(
        f"| {name} | {'; '.join(map(_setting, found['settings']))} |\n" for name, found in summary["candidates"].items()
    )
    text = "\n\n".join(filter(None, [title_of(summary), table.rstrip("\n"), by_chance(summary)])) + "\n"
    if summary["trials"] > 1:
        head = f"\nChosen on the validation split among {summary['trials']} settings, the same for each model:\n\n"
        text += f"{head}| | setting |\n| --- | --- |\n{chosen}"
    text += "".join(f"\n{note}\n" for note in at_edges(summary))
    return text


def _printed(summary: Summary) -> Table:
    """The table for a terminal: narrower, differences under the values."""
    heads, rows = rows_of(summary)
    last = 1 + 2 * len(summary["better"])
    table = Table(title=title_of(summary), title_justify="left")
    figures = [f"{head}\ndifference" for head in heads[1:last:2]]
    for head in (heads[0], *figures, heads[last], heads[-1]):
        table.add_column(head, no_wrap=head in ("", *figures))
    for row in rows:
        pairs = zip(row[1:last:2], row[2:last:2], strict=True)
        table.add_row(row[0], *("\n".join(filter(None, pair)) for pair in pairs), row[last], row[-1])
    return table


def write_report(summary: Summary, output: Path, console: Console) -> None:
    """Prints the table and writes ``report.md``, ``report.json`` and ``report.png``."""
    console.print(_printed(summary))
    for note in filter(None, [by_chance(summary), *at_edges(summary)]):
        console.print(note, highlight=False)
    write_metrics(output / "report.json", summary)
    (output / "report.md").write_text(markdown(summary))
    from torchrec_mtl.experiments.comparison.plot import draw  # noqa: PLC0415  # Matplotlib takes a second

    draw(summary, output / "report.png")
    console.print(f"{output / 'report.md'}, report.json, report.png")
