"""An observer that remembers."""

from __future__ import annotations


class Recorder:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int | None, int, int]] = []
        self.retries = 0
        self.failures: list[str] = []

    def on_request(
        self, op: str, status: int | None, seconds: float, sent: int, received: int
    ) -> None:
        assert seconds >= 0
        self.calls.append((op, status, sent, received))

    def on_retry(self) -> None:
        self.retries += 1

    def on_failure(self, reason: str) -> None:
        self.failures.append(reason)
