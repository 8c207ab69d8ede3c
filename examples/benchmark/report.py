"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from examples.benchmark.goals import MIB, goal_lines

GOAL_HEADER = ("goal", "measured", "met")


def show_table(table: str, output: Path | None, console: Console) -> None:
    """Prints a Markdown table, and writes it to a file if one is named."""
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(table + "\n")
    console.print(Markdown(table))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Raises:
        ValueError: If a row has another number of cells than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"Every row needs {len(header)} cells {list(header)}, but found {list(row)}.")
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_markdown(results: dict[str, Any]) -> str:
    """The whole report: machine, goals, throughput, memory and curves, as far as they were measured."""
    machine = results["machine"]
    parts = [
        "# Benchmark",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f"; {results['date']}.",
    ]
    if results.get("quick"):
        parts.append("**A quick run**: it shows that everything works; its figures are coarse.")
    parts += ["## Goals", markdown_table(GOAL_HEADER, goal_lines(results))]
    if throughput := results.get("throughput"):
        parts += ["## Throughput and memory", _throughput(throughput["pairs"])]
    if memory := results.get("memory"):
        parts += ["## One large table", _memory(memory["table"])]
        parts += ["## The reader", _streaming(memory["streaming"])]
    if curves := results.get("curves"):
        parts += ["## Growth", _curves(curves)]
    return "\n\n".join(parts) + "\n"


def _throughput(pairs: list[dict[str, Any]]) -> str:
    rows = []
    for pair in pairs:
        names = [pair["workload"], pair["first"], pair["second"]]
        if "not_measured" in pair:
            rows.append([*names, f"not measured: {pair['not_measured']}", "", "", ""])
            continue
        ratio = pair["ratio"]
        rates = [f"{pair['samples_per_second'][name]['median']:,.0f}" for name in names[1:]]
        peaks = " / ".join(_memory_cell(pair["memory"][name]) for name in names[1:])
        rows.append([*names, *rates, f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})", peaks])
    header = ["workload", "first", "second", "first, samples/s", "second, samples/s", "ratio (spread)"]
    return markdown_table([*header, "peak memory, MiB (over tables and state)"], rows)


def _memory_cell(memory: dict[str, int]) -> str:
    return f"{memory['peak'] / MIB:,.0f} ({memory['excess'] / MIB:+,.0f})"


def _memory(table: dict[str, Any]) -> str:
    rows = [
        [stage, f"{found['peak'] / MIB:,.0f}", f"{found['copies']:.2f}", f"{found['seconds']:.1f}"]
        for stage, found in table["stages"].items()
    ]
    caption = (
        f"Table of {table['tables'] / MIB:,.0f} MiB, optimizer state of {table['state'] / MIB:,.0f} MiB, "
        f"{table['imports'] / MIB:,.0f} MiB resident after the imports."
    )
    header = ["stage", "peak memory, MiB", "copies of table and state beyond the imports", "seconds"]
    return caption + "\n\n" + markdown_table(header, rows)


def _streaming(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{each['bytes'] / 1e9:.2f}",
            f"{each['rows']:,}",
            f"{each['rows'] / each['seconds']:,.0f}",
            f"{each['peak'] / MIB:,.0f}",
        ]
        for each in found.values()
    ]
    return markdown_table(["GB of Parquet", "rows", "rows/s", "peak memory over the start, MiB"], rows)


def _curves(curves: dict[str, dict[str, Any]]) -> str:
    rows = []
    for factor, curve in curves.items():
        cost = ", ".join(f"{x:,}: {ms:,.0f}" for x, ms in zip(curve["x"], curve["ms_per_step"], strict=True))
        powers = [f"{curve['exponent']:.2f}", f"{curve['exponent_upper_half']:.2f}"]
        rows.append([factor, cost, *powers, curve["stopped"] or ""])
    return markdown_table(["factor", "ms a step", "exponent", "upper half", "left out"], rows)
