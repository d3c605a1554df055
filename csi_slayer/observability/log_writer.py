"""The thread that writes log lines.

A log write can block (a full pipe, a disk that hangs, even a file inside a mount of this very
process), and a file system's event loop must never wait for its log. Lines queue up to a limit;
beyond it they are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import Final

from csi_slayer.observability.log_file import LogFile

_MOST_LINES: Final = 10_000
_LONGEST_LINE: Final = 64 * 1024
_CLOSE_TIMEOUT: Final = 2.0


class LogWriter(logging.Handler):
    """Formats on the caller's thread (the context is there), writes on its own."""

    def __init__(self, file: LogFile) -> None:
        """``file`` is closed with this."""
        super().__init__()
        self._file = file
        self._lines: deque[bytes] = deque()
        self._ready = threading.Condition()
        self._dropped = 0
        self._closing = False
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="backslashreplace")[:_LONGEST_LINE]
        except Exception:  # a broken __repr__ in an event must not break the caller
            self.handleError(record)
            return
        with self._ready:
            if self._closing or len(self._lines) >= _MOST_LINES:
                self._dropped += 1
                return
            self._lines.append(line + b"\n")
            self._ready.notify()

    @property
    def dropped(self) -> int:
        """Lines that were lost because the output did not keep up."""
        return self._dropped

    def close(self) -> None:
        """Write what is queued, for two seconds at most."""
        with self._ready:
            if self._closing:
                return
            self._closing = True
            self._ready.notify()
        self._thread.join(_CLOSE_TIMEOUT)
        if not self._thread.is_alive():
            self._file.close()
        super().close()

    def _write_all(self) -> None:
        reported = 0
        while True:
            with self._ready:
                while not self._lines and not self._closing:
                    self._ready.wait()
                if not self._lines:
                    return
                batch = b"".join(self._lines)
                self._lines.clear()
                dropped = self._dropped
            if dropped > reported:
                batch += b'{"event":"log_lines_dropped","total":%d}\n' % dropped
                reported = dropped
            # Standard error gone, disk full: there is no place left to say so.
            with contextlib.suppress(OSError):
                self._file.write(batch)
