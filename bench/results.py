"""What was measured: samples by row and column, failures, notes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.rows import Row, Verdict, judge


@dataclass
class Results:
    """Samples are in the unit of their row. A column that failed in a row has no median there."""

    rows: tuple[Row, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def wants(self, row: str) -> bool:
        return any(known.id == row for known in self.rows)

    def add(self, column: str, values: Mapping[str, float]) -> None:
        """One sample for each of the rows; rows that nobody asked for are dropped."""
        for row, value in values.items():
            if self.wants(row):
                self.samples.setdefault(row, {}).setdefault(column, []).append(value)

    def fail(self, column: str, rows: Iterable[str], reason: str) -> None:
        """The first reason is kept: those that follow are mostly its consequences."""
        for row in rows:
            if self.wants(row):
                self.failures.setdefault(row, {}).setdefault(column, reason)

    def failed(self, column: str, rows: Iterable[str]) -> bool:
        return any(column in self.failures.get(row, {}) for row in rows)

    def medians(self, row: str) -> dict[str, float]:
        failed = self.failures.get(row, {})
        return {
            column: statistics.median(values)
            for column, values in self.samples.get(row, {}).items()
            if column not in failed
        }

    def verdicts(self, row: Row) -> list[Verdict]:
        values = self.medians(row.id)
        return [judge(criterion, values) for criterion in row.criteria]

    def to_json(self) -> dict[str, Any]:
        return {
            "meta": self.meta,
            "notes": self.notes,
            "rows": [
                {
                    "id": row.id,
                    "title": row.title,
                    "unit": row.unit,
                    "medians": self.medians(row.id),
                    "samples": self.samples.get(row.id, {}),
                    "failures": self.failures.get(row.id, {}),
                    "criteria": [
                        {
                            "text": verdict.criterion.describe(),
                            "figure": verdict.figure,
                            "passed": verdict.passed,
                        }
                        for verdict in self.verdicts(row)
                    ],
                }
                for row in self.rows
            ],
        }
