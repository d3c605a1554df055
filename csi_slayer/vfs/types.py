"""What passes between a FUSE engine and the VFS: plain values, no protocol bytes.

Times are nanoseconds since 1970 unless a name ends in ``_ttl`` (seconds). Names are bytes without
a slash. ``ino`` is the FUSE node id; the root is 1.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from csi_slayer.content.ranges import FileRange, ReadResult, Views

__all__ = [
    "Attr",
    "DirItem",
    "Entry",
    "FileRange",
    "Kernel",
    "OpenFlags",
    "Opened",
    "ReadResult",
    "Request",
    "SetAttr",
    "StatFs",
    "Views",
]


class Request(NamedTuple):
    """Who asks. ``unique`` is the kernel's request id as received, without the resend bit."""

    unique: int
    uid: int
    gid: int
    pid: int
    resent: bool = False


class Attr(NamedTuple):
    """An inode's attributes; ``mode`` includes the file type bits, ``blocks`` counts 512 bytes."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Entry(NamedTuple):
    """The answer to a lookup. A negative entry that may be cached has ``attr`` None."""

    attr: Attr | None
    entry_ttl: float
    attr_ttl: float


class OpenFlags:
    """FOPEN_* of the open reply (linux/fuse.h), as plain integers."""

    NONE = 0
    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6
    PASSTHROUGH = 1 << 7


class Opened(NamedTuple):
    """The answer to open, opendir and (with an Entry) create."""

    fh: int
    flags: int = OpenFlags.NONE
    backing_id: int = 0


class DirItem(NamedTuple):
    """One name in a directory; ``cookie`` is the offset that continues after it.

    ``entry`` is filled for readdirplus only; None tells the kernel just the name and type.
    """

    name: bytes
    ino: int
    mode: int
    cookie: int
    entry: Entry | None


class SetAttr(NamedTuple):
    """The attributes a setattr changes; None leaves one alone. ``fh`` where the kernel gave one."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    fh: int | None = None


class StatFs(NamedTuple):
    """What ``df`` shows, in units of ``frsize`` bytes."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    frsize: int
    namelen: int


class Kernel(Protocol):
    """What the VFS may ask of the engine: the kernel's side of caching and passthrough."""

    @property
    def passthrough(self) -> bool:
        """Whether an open may be answered with a backing file."""

    @property
    def opens_unseen(self) -> bool:
        """Whether the kernel opens and closes files without telling (zero-upcall)."""

    @property
    def lists_unseen(self) -> bool:
        """Whether the kernel opens directories without telling, and keeps names until told."""

    def backing_open(self, fd: int) -> int:
        """Register a local file; returns its backing id (> 0). Raises FsError."""

    def backing_close(self, backing_id: int) -> None: ...

    def invalidate_attributes(self, ino: int) -> None:
        """Have the kernel's cached attributes of an inode dropped when this returns, at once."""

    async def renew(self, ino: int) -> None:
        """Have the kernel's attributes of an inode dropped, and no invalidation of the inode still
        to come when this returns: the next answer with its attributes is believed. Its pages are
        left to the open that is being answered."""

    def invalidate_inode(self, ino: int) -> bool:
        """Drop the kernel's cached attributes and pages of an inode; returns at once. False if it
        cannot be told for the moment, for too much waits for it: nothing will be dropped then."""

    def invalidate_pages(self, ino: int, pages: range) -> None:
        """Drop a part of the kernel's cached pages of an inode, bytes; returns at once."""

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Drop a cached name; returns at once."""
