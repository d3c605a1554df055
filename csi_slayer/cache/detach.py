"""Taking a clean segment out of the cache for a writer, without copying its bytes.

The writer must be alone with the file. ``flock`` says so, but its change from shared to exclusive
is not atomic: the shared lock is dropped first. Between two processes that try at once, one could
end with a file that the other one writes to. So only one process of the node tries at a time,
under a lock of its own, which :mod:`csi_slayer.cache.rekey` takes as well; eviction, which may slip
into the gap, only unlinks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from csi_slayer.cache.header import read_header
from csi_slayer.cache.layout import Layout
from csi_slayer.cache.opened import OpenSegment
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.sweep import remove_map


class TurnTaken(Exception):
    """Another process tries just now, which takes it less than a millisecond."""


@contextmanager
def turn(layout: Layout) -> Iterator[None]:
    """Be the only process that tries; raises TurnTaken if another does."""
    fd = os.open(layout.detach_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TurnTaken from None
        yield
    finally:
        os.close(fd)


def detach(opened: OpenSegment, stage_path: str) -> int | None:
    """See :meth:`csi_slayer.cache.segment.Segment.detach`."""
    shared = opened.shared
    with shared.lock:
        if opened.refs != 1 or not opened.complete:
            return None
        try:
            with turn(shared.layout):
                try:
                    fcntl.flock(opened.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    moved = _move(opened, stage_path)
                finally:
                    # Shared again, also when it was not to be had: by then only an evictor can be
                    # in the way, and what it unlinks we may go on reading.
                    with suppress(BlockingIOError):
                        fcntl.flock(opened.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            raise translated(error, "taking a segment for writing") from error
        if not moved:
            return None
        opened.forget()
        opened.refs = 0
    opened.discard()
    fd, opened.fd = opened.fd, -1
    return fd


def _move(opened: OpenSegment, stage_path: str) -> bool:
    """With the exclusive lock held: give the file its new name, then take the old one away."""
    fd, layout = opened.fd, opened.shared.layout
    stat = os.fstat(fd)
    header = read_header(fd, layout.xattr)
    if header is None or not opened.undisturbed:
        return False
    try:
        # By descriptor: whatever may have come to be at the old path, this is our file. (Without
        # a directory descriptor os.link would link the symbolic link itself.)
        os.link(f"/proc/self/fd/{fd}", stage_path, src_dir_fd=fd, follow_symlinks=True)
    except FileNotFoundError:
        return False  # it has been unlinked
    os.removexattr(fd, layout.xattr)
    path = layout.data(opened.name)
    with suppress(FileNotFoundError):
        if os.stat(path).st_ino == stat.st_ino:
            os.unlink(path)
    freed = remove_map(layout, opened.name, header)
    opened.shared.ledger.freed(stat.st_blocks * 512 + freed)
    return True
