"""What goes wrong again and again is told once in a while."""

from __future__ import annotations

from typing import Any

from csi_slayer.errors import CacheFull
from csi_slayer.observability import complaints
from csi_slayer.observability.complaints import AGAIN, Complaints


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append((event, values))


def test_the_same_is_told_once_in_a_while() -> None:
    log, now = Log(), [0.0]
    told = Complaints(log, lambda: now[0])
    for _ in range(5):
        told.failed("a", "no", CacheFull("full"), ino=7)
    assert log.lines == [("no", {"error": "full", "exc_info": None, "ino": 7})]
    told.failed("b", "no", CacheFull("full"))
    told.failed("a", "no", OSError("another"))
    assert len(log.lines) == 3
    now[0] += AGAIN
    told.failed("a", "no", OSError("another"))
    assert len(log.lines) == 4


def test_what_worked_meanwhile_is_told_at_once() -> None:
    log = Log()
    told = Complaints(log, lambda: 0.0)
    told.over("a")
    for _ in range(2):
        told.failed("a", "no", CacheFull("full"))
        told.over("a")
    assert len(log.lines) == 2


def test_an_error_that_nobody_thought_of_has_its_traceback() -> None:
    log, error = Log(), KeyError()
    Complaints(log, lambda: 0.0).failed("a", "no", error)
    assert log.lines == [("no", {"error": "KeyError", "exc_info": error})]


def test_no_more_is_remembered_than_is_bearable() -> None:
    log = Log()
    told = Complaints(log, lambda: 0.0)
    for number in range(complaints.MOST + 1):
        told.failed(number, "no", CacheFull("full"))
    before = len(log.lines)
    told.failed(complaints.MOST, "no", CacheFull("full"))
    assert len(log.lines) == before
    told.failed(0, "no", CacheFull("full"))
    assert len(log.lines) == before + 1
