"""Decoding what the kernel asks: the bytes after the request header, as plain values.

The functions take the request's body and copy what they return, except where a function says
otherwise; so the buffer may be reused as soon as they are done. Bytes that do not fit the layout
raise :class:`struct.error` or :class:`ValueError`, which the dispatcher answers with EIO.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from csi_slayer.fuse import protocol as p
from csi_slayer.vfs.types import SetAttr

_NS = 1_000_000_000


def name(body: memoryview, at: int = 0) -> bytes:
    """The NUL-terminated name at ``at``; what follows it (extensions) is left alone."""
    data = bytes(body[at:])
    end = data.find(b"\0")
    if end < 0:
        raise ValueError("a name without its end")
    return data[:end]


def two_names(body: memoryview, at: int = 0) -> tuple[bytes, bytes]:
    """Two NUL-terminated names, one after the other."""
    first, second, *rest = bytes(body[at:]).split(b"\0", 2)
    if not rest:
        raise ValueError("a name without its end")
    return first, second


class SetAttrIn(NamedTuple):
    """``kill_suidgid``: the caller changes the size and may not keep set-id bits."""

    changes: SetAttr
    kill_suidgid: bool


def setattr_in(body: memoryview) -> SetAttrIn:
    """SETATTR. "Now" is taken here, so that the file system sees one kind of time."""
    (
        valid, _, fh, size, _owner, atime, mtime, ctime, atime_nsec, mtime_nsec, ctime_nsec,
        mode, _, uid, gid, _,
    ) = p.SETATTR_IN.unpack_from(body)  # fmt: skip
    now = time.time_ns() if valid & (p.FATTR_ATIME_NOW | p.FATTR_MTIME_NOW) else 0
    return SetAttrIn(
        SetAttr(
            mode=mode if valid & p.FATTR_MODE else None,
            uid=uid if valid & p.FATTR_UID else None,
            gid=gid if valid & p.FATTR_GID else None,
            size=size if valid & p.FATTR_SIZE else None,
            atime_ns=_time(valid, p.FATTR_ATIME, p.FATTR_ATIME_NOW, atime, atime_nsec, now),
            mtime_ns=_time(valid, p.FATTR_MTIME, p.FATTR_MTIME_NOW, mtime, mtime_nsec, now),
            ctime_ns=ctime * _NS + ctime_nsec if valid & p.FATTR_CTIME else None,
            fh=fh if valid & p.FATTR_FH else None,
        ),
        bool(valid & p.FATTR_KILL_SUIDGID),
    )


def _time(valid: int, bit: int, now_bit: int, seconds: int, nsec: int, now: int) -> int | None:
    if not valid & bit:
        return None
    return now if valid & now_bit else seconds * _NS + nsec


def xattr_in(body: memoryview, extended: bool) -> tuple[bytes, bytes, int]:
    """SETXATTR: name, value and flags. ``extended``: SETXATTR_EXT was negotiated."""
    size, flags = p.SETXATTR_IN.unpack_from(body)
    layout = p.SETXATTR_IN_EXT if extended else p.SETXATTR_IN
    key = name(body, layout.size)
    start = layout.size + len(key) + 1
    value = bytes(body[start : start + size])
    if len(value) != size:
        raise ValueError("a value shorter than its size")
    return key, value, flags


def appends(flags: int) -> bool:
    """Whether the writes of what is open with these flags go to the end of the file, one after the
    other. Those past the page cache (O_DIRECT) may come in any order, and are left as they are."""
    return bool(flags & os.O_APPEND) and not flags & os.O_DIRECT


def write_in(body: memoryview) -> tuple[int, int, int, bool, memoryview]:
    """WRITE: fh, offset, flags, whether it appends and the data, which is a view of ``body``."""
    fh, offset, size, flags, _owner, open_flags, _padding = p.WRITE_IN.unpack_from(body)
    data = body[p.WRITE_IN.size : p.WRITE_IN.size + size]
    if len(data) != size:
        raise ValueError("less data than its size")
    append = appends(open_flags) and not flags & p.WRITE_CACHE
    return fh, offset, flags, append, data


def is_direct_read(body: memoryview) -> bool:
    """Whether a READ is a read(2) that waits for just this; reads into the page cache, which may
    be page faults, come without an owner."""
    return bool(p.READ_IN.unpack_from(body)[3] & p.READ_LOCKOWNER)


def forgets(body: memoryview) -> Iterator[tuple[int, int]]:
    """BATCH_FORGET: node ids and how many lookups each loses."""
    count, _ = p.BATCH_FORGET_IN.unpack_from(body)
    start = p.BATCH_FORGET_IN.size
    for at in range(start, start + count * p.FORGET_ONE.size, p.FORGET_ONE.size):
        yield p.FORGET_ONE.unpack_from(body, at)
