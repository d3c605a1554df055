"""What can go wrong between a client and its store, and to which requests it happens."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with an error instead of forwarding: ``Status(503, "SlowDown")``."""

    status: int
    code: str = "InternalError"
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    """Forward later, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Blackhole:
    """Take the request and never answer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Reset the connection after at most this many bytes of the answer's body."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Truncate:
    """Close in good order after exactly this many bytes of the body; Content-Length says more."""

    keep: int = 0


@dataclass(frozen=True, slots=True)
class CutUpload:
    """Reset both connections after this many bytes of the request's body."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class WrongLength:
    """A well-formed answer whose body is longer (by zeros) or shorter than the object's bytes."""

    delta: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the answer says something else; None removes it."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The server does what was asked, but the client only sees a reset connection."""


Fault = Status | Delay | Blackhole | Cut | Truncate | CutUpload | WrongLength | Header | LoseAnswer


@dataclass(slots=True)
class Rule:
    """A fault and the requests it happens to. ``hits`` counts them."""

    fault: Fault
    method: str | None = None
    path: re.Pattern[str] | None = None
    kind: str | None = None
    times: int | None = None
    fraction: float = 1.0
    skip: int = 0
    hits: int = 0
    _seen: int = field(default=0, repr=False)

    def applies(self, method: str, target: str, kind: str, chance: float) -> bool:
        """Whether it happens to this request; counts it if so."""
        if self.times is not None and self.hits >= self.times:
            return False
        if self.method is not None and self.method != method:
            return False
        if self.kind is not None and self.kind != kind:
            return False
        if self.path is not None and not self.path.search(target):
            return False
        self._seen += 1
        if self._seen <= self.skip or chance >= self.fraction:
            return False
        self.hits += 1
        return True


class Rules:
    """The rules in force; changed by the test while the proxy runs in its own thread."""

    def __init__(self, seed: int = 1) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def remove(self, rule: Rule) -> None:
        with self._lock:
            if rule in self._rules:
                self._rules.remove(rule)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def match(self, method: str, target: str, kind: str) -> list[Fault]:
        """The faults of one request, in the order in which they were added."""
        with self._lock:
            return [
                rule.fault
                for rule in self._rules
                if rule.applies(method, target, kind, self._random.random())
            ]
