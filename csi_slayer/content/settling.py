"""When the time of a staged file tells what is in it.

That its mtime is another one than when it was uploaded is how a staged copy is known to differ
from its object. But a write of the kernel's own sets the time first and copies its bytes then: a
stat while it is under way has the new time and the old bytes. So whoever notes a time for the
bytes that he reads waits in between until no write that had begun is under way. All of them hold
the inode's lock meanwhile (ext4, XFS, Btrfs: ``i_rwsem``).
"""

from __future__ import annotations

import mmap
import os
import stat
import time

from csi_slayer.cache import filesystem
from csi_slayer.cache.filesystem import EXT4, file_system, kind_of
from csi_slayer.content.patient import Patient

TICK = 20_000_000
"""Nanoseconds: more than any kernel's clock tick."""

_RELEASE = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
_FINE_SINCE = (6, 13)
_FINE = (filesystem.XFS, filesystem.BTRFS, filesystem.TMPFS)

_TELLING = (EXT4, filesystem.XFS)
_PAST_CACHE = os.O_RDONLY | os.O_DIRECT | os.O_NOATIME | os.O_CLOEXEC
_BEYOND = 1 << 50  # no file is as large
_page = memoryview(mmap.mmap(-1, mmap.PAGESIZE))


def has_coarse_times(fd: int) -> bool:
    """Whether two writes within one tick leave the same mtime, even with a stat between: so before
    Linux 6.13, and since on file systems without multigrain timestamps (FS_MGTIME): ext2 and ext3
    too, though it is ext4 that serves them."""
    if _RELEASE < _FINE_SINCE:
        return True
    try:
        kind = file_system(fd)
        if kind == EXT4:
            return kind_of(os.fstat(fd).st_dev) != "ext4"
        return kind not in _FINE
    except OSError:
        return True


def settled_mtime(fd: int) -> int:
    """The mtime of a staged file, nanoseconds, which every later write changes."""
    found, now = os.fstat(fd), time.time_ns()
    if has_coarse_times(fd) and found.st_mtime_ns > now - TICK:
        # A time that no write of this tick gives, nor an earlier call: what was written since that
        # may have to be sent once more. One that came before this call is in the bytes that the
        # caller reads after it.
        settled = max(found.st_mtime_ns + 1, now)
        os.utime(fd, ns=(found.st_atime_ns, settled))
        return settled
    return found.st_mtime_ns


def wait_for_writes(fd: int) -> None:
    """Return when every write is over that had begun before the call. Blocks for as long as one
    call of write(2) does: fchmod(2) takes the lock alone, and leaves the mtime as it is."""
    os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode))


def is_at_rest(fd: int) -> bool:
    """Whether it is certain that no write through the page cache is under way. Does not wait.

    A read past the page cache, even of what is beyond the file's end, first takes the lock
    together with other readers, or with RWF_NOWAIT fails (``ext4_dio_read_iter``,
    ``xfs_file_dio_read``). Writes past the page cache may share it too: those it does not see.
    """
    try:
        if file_system(fd) not in _TELLING:
            return False
        own = os.open(f"/proc/self/fd/{fd}", _PAST_CACHE)
        try:
            return os.preadv(own, [_page], _BEYOND, os.RWF_NOWAIT) == 0
        finally:
            os.close(own)
    except OSError:
        return False


def _settled(fd: int) -> int:
    mtime_ns = settled_mtime(fd)  # which may set it, and wait as well
    wait_for_writes(fd)
    return mtime_ns


async def settle(patient: Patient, fd: int, *, past_cache: bool) -> int:
    """:func:`settled_mtime`, after which every write that had set it is over; waits for them.
    ``past_cache``: whether somebody may write past the page cache. Raises OSError."""
    if not past_cache and not has_coarse_times(fd):
        mtime_ns = os.fstat(fd).st_mtime_ns
        if is_at_rest(fd):
            return mtime_ns
    return await patient.run(_settled, fd)
