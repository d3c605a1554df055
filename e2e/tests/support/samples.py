"""What the load in a pod prints, as it prints it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from e2e.tests.support.api import Api

KIND = "open files"
DURABLE = "fsync and rename"


class Samples:
    """Follows a pod's log in a thread, until the pod ends."""

    def __init__(self, api: Api, namespace: str, pod: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        self.other: list[str] = []
        """Lines that are no samples: a traceback, if all goes wrong."""
        self._ended = False
        self._news = threading.Condition()
        self._response = api.follow(namespace, pod)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for line in self._response:
                self._take(line.decode(errors="replace").rstrip("\n"))
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _take(self, line: str) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        with self._news:
            if found is None:
                self.other.append(line)
            elif "done" in found:
                self.result = found
            else:
                self.lines.append(found)
            self._news.notify_all()

    def count(self, kind: str, begin: float, end: float) -> int:
        """Operations of a kind in samples taken between two times (``time.time``)."""
        with self._news:
            return sum(s["operations"][kind] for s in self.lines if begin < s["clock"] <= end)

    def wait(self, kind: str, operations: int, since: float, timeout: float) -> None:
        """Until so many of a kind were done after ``since``. Raises AssertionError."""
        end = time.monotonic() + timeout
        with self._news:
            while sum(s["operations"][kind] for s in self.lines if s["clock"] > since) < operations:
                assert not self._ended, f"the load has ended: {self.other}"
                left = end - time.monotonic()
                assert left > 0, f"fewer than {operations} operations ({kind}) in {timeout:.0f} s"
                self._news.wait(left)

    def join(self, timeout: float) -> None:
        """Until the pod has ended and its last line is here."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the load does not end"
