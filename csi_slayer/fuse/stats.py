"""Counting requests: cheap enough for each of them, and turned into metrics elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from csi_slayer.fuse.protocol import Opcode


class Observer(Protocol):
    """Where latencies go, a histogram per operation, and errors."""

    def observe(self, op: str, seconds: float) -> None:
        """A request was answered ``seconds`` after it was read."""

    def failed(self, op: str, errno: int) -> None:
        """Besides: it was answered with an error."""


@dataclass(frozen=True, slots=True)
class OpStats:
    """Requests of one kind that were answered; ``errors`` of them with an errno."""

    count: int
    errors: int
    seconds: float


_SIZE = max(Opcode) + 1
NAMES = tuple(
    Opcode(number).name.lower() if number in Opcode._value2member_map_ else f"opcode_{number}"
    for number in range(_SIZE)
)
"""The names of operations by opcode."""


def name_of(opcode: int) -> str:
    return NAMES[opcode] if opcode < _SIZE else f"opcode_{opcode}"


class Stats:
    """Used from the event loop only; opcodes that are not in the protocol count as 0."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._counts = [0] * _SIZE
        self._errors = [0] * _SIZE
        self._seconds = [0.0] * _SIZE
        self._observe = None if observer is None else observer.observe
        self._failed = None if observer is None else observer.failed

    def record(self, opcode: int, seconds: float, errno: int) -> None:
        """A request was answered; ``errno`` 0 for success."""
        if opcode >= _SIZE:
            opcode = 0
        self._counts[opcode] += 1
        self._seconds[opcode] += seconds
        if errno:
            self._errors[opcode] += 1
            if self._failed is not None:
                self._failed(NAMES[opcode], errno)
        if self._observe is not None:
            self._observe(NAMES[opcode], seconds)

    def snapshot(self) -> dict[str, OpStats]:
        """Figures of the operations that occurred, by name."""
        return {
            NAMES[number]: OpStats(count, self._errors[number], self._seconds[number])
            for number, count in enumerate(self._counts)
            if count
        }
