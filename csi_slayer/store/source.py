"""Reading the local files whose bytes are sent to a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from csi_slayer.errors import SourceUnreadable


@contextmanager
def reading() -> Iterator[None]:
    """Translates an OSError of such a file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceUnreadable(f"the file to send cannot be read: {reason}") from error


def read_at_once(fd: int, offset: int, length: int) -> bytes | None:
    """A file's range if it can be had without waiting; else None: it is not in the page cache, the
    file is shorter or is being written to (XFS), or the file system cannot tell."""
    data = bytearray(length)
    with suppress(OSError):
        if os.preadv(fd, (data,), offset, os.RWF_NOWAIT) == length:
            return bytes(data)
    return None
