"""Processes below others, and their end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

END_TIMEOUT = 30.0
"""Seconds that a killed process may take to be gone."""


def children(pid: int) -> list[int]:
    """Those of one process; none if it has ended. Threads that end while looking are left out."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one, those that ended while looking left out."""
    found = children(pid)
    for process in found:
        found += children(process)
    return found


def end(pid: int) -> None:
    """kill -9, and wait until all its threads are gone; its parent has still to wait for it. No
    error if there is none. Raises AssertionError if it stays."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(END_TIMEOUT * 1000), f"{pid} stays"
    finally:
        os.close(pidfd)
