"""OS errors of the cache directory as errors of ours."""

from __future__ import annotations

import errno
import os
from typing import Final

from csi_slayer.errors import CacheError, CacheFull

UNREADABLE: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
"""What a disk says that cannot give back what was written to it."""

_AT_ONCE = 1 << 20


def translated(error: OSError, what: str) -> CacheError:
    """CacheFull if the disk (or a quota on it) is full, else CacheError with the reason."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CacheFull(f"{what}: {error.strerror}")
    failure = CacheError(f"{what}: {error.strerror}")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        failure.errno = errno.ENFILE  # the limit is ours, not the program's; no disk has failed
    return failure


def is_lost(error: OSError) -> bool:
    """Whether a file that was listed is gone, or the disk has lost it."""
    return isinstance(error, FileNotFoundError) or error.errno in UNREADABLE


def read_through(fd: int, size: int) -> None:
    """Read the first ``size`` bytes of a file that is to be mapped. A page that the disk cannot
    give is an error here; whoever touched it in memory would be killed (SIGBUS), and the next
    process as well. Raises OSError."""
    at = 0
    while at < size and (data := os.pread(fd, min(size - at, _AT_ONCE), at)):
        at += len(data)
