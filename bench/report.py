"""The results as markdown."""

from __future__ import annotations

from bench.results import Results
from bench.rows import COLUMNS, Ratio, Row, Verdict

_PASSED = {True: "pass", False: "**FAIL**", None: "not measured"}


def number(value: float | None) -> str:
    """Three significant digits, thousands separated; a dash for nothing."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cell(results: Results, row: Row, column: str) -> str:
    if column in results.failures.get(row.id, {}):
        return "failed"
    return number(results.medians(row.id).get(column))


def _verdict(row: Row, verdict: Verdict) -> str:
    figure = number(verdict.figure)
    if isinstance(verdict.criterion, Ratio):
        figure = "-" if verdict.figure is None else f"{verdict.figure:.2f} x"
    elif verdict.figure is not None:
        figure += f" {row.unit}"
    text = verdict.criterion.describe()
    return f"| {row.title} | {text} | {figure} | {_PASSED[verdict.passed]} |"


def markdown(results: Results) -> str:
    """Conditions, the table of medians, the targets with verdicts, failures and notes."""
    lines = ["# Benchmark results", ""]
    lines += [f"* {key}: {value}" for key, value in results.meta.items()]
    lines += ["", "Medians; more is better except for memory.", ""]
    lines += ["| | unit | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for row in results.rows:
        cells = " | ".join(_cell(results, row, column) for column in COLUMNS)
        lines.append(f"| {row.title} | {row.unit} | {cells} |")
    lines += ["", "## Targets", "", "| | target | measured | |", "|---|---|---|---|"]
    for row in results.rows:
        lines += [_verdict(row, verdict) for verdict in results.verdicts(row)]
    failures = [
        f"* {row.title}, {column}: {reason}"
        for row in results.rows
        for column, reason in results.failures.get(row.id, {}).items()
    ]
    if failures:
        lines += ["", "## Failures", "", *failures]
    if results.notes:
        lines += ["", "## Notes", "", *(f"* {note}" for note in results.notes)]
    return "\n".join(lines) + "\n"
