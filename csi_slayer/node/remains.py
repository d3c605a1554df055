"""What is left of a worker that was killed while a thread of it waited in the kernel.

An invalidation waits for the lock of a directory or of a page, which a program's request holds, and
no signal ends that wait. With the worker dead only its successor can answer the request; so nobody
may wait for the last of the dead worker's threads before the successor is started. The process
counts as ended once its first thread is gone and it holds no file any more, of which the end of its
channel tells, or the volume's lock. What waits then has nothing but the worker's memory and the
connection to the kernel (:mod:`csi_slayer.fuse.notify`) and goes by itself when the request is
answered. Standard library only, as what supervises is.
"""

from __future__ import annotations

SETTLE = 1.0
"""Seconds that a process gets to end as a whole before it is looked at in this way, and between two
such looks: taking its memory apart needs some of that."""


def is_all_that_is_left(pid: int) -> bool:
    """Whether of a process that is not gone yet its first thread has ended (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):  # it is gone as a whole
        return True
    return state in (b"Z", b"X")
