"""Ending the worker of an unmounted volume that still uploads: what is left stays staged."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from csi_slayer.cli import control
from csi_slayer.errors import SlayerError
from csi_slayer.node import registry
from csi_slayer.node.lock import is_locked

ASK_TIMEOUT = 1.0
"""Seconds that a worker may take to answer that it will end."""

END_TIMEOUT = 2.0
"""Seconds that it may take to end once it has been told."""


def free(entry: registry.Mounted, seconds: float) -> bool:
    """Whether nobody serves the volume any more, within so many seconds."""
    deadline = time.monotonic() + seconds
    while is_locked(entry.state):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    registry.remove(entry.volume)  # a supervisor that was killed did not
    return True


def end_worker(entry: registry.Mounted, *, unmounting: bool) -> bool:
    """Have the worker end without waiting for uploads; True once nobody serves the volume.

    ``unmounting``: the volume has just been unmounted, which the worker may not have noticed yet;
    without it, one that is mounted goes on. A worker that does not answer is killed by its
    supervisor: what was acknowledged is on the disk, as after a crash.
    """
    try:
        for _ in control.ask(entry, "end", timeout=ASK_TIMEOUT, unmounting=unmounting):
            pass
    except control.Busy:
        return False
    except control.NoWorker:
        pass
    except SlayerError:
        return False  # it serves a mount
    return free(entry, END_TIMEOUT) or (_terminate(entry) and free(entry, END_TIMEOUT))


def _terminate(entry: registry.Mounted) -> bool:
    """Tell the supervisor of the entry; False if that is not the process which has its number."""
    try:
        process = os.pidfd_open(entry.supervisor)
    except OSError:
        return False
    try:
        if not _has_open(entry.supervisor, os.path.join(entry.state, "lock")):
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def _has_open(pid: int, path: str) -> bool:
    wanted = os.path.realpath(path)
    directory = f"/proc/{pid}/fd"
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            if os.readlink(f"{directory}/{name}") == wanted:
                return True
    return False
