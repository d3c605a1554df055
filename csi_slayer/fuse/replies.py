"""Encoding replies: the bytes after the reply header."""

from __future__ import annotations

from collections.abc import Sequence

from csi_slayer.fuse import protocol as p
from csi_slayer.vfs.types import Attr, DirItem, Entry, Opened, StatFs

_NS = 1_000_000_000
_BLOCK_SIZE = p.PAGE
"""st_blksize. Not more than a page: some kernels take it for the size of a page cache block."""

_MAX_TTL = (1 << 32) - 1
"""Seconds; more than a century, and still far from the kernel's overflow of jiffies."""

_NO_ATTR = (0,) * 16
_NO_ENTRY = (0,) * 22
_DOTS = (b".", b"..")


def ttl_parts(ttl: float) -> tuple[int, int]:
    """Seconds and nanoseconds of a cache time; below zero counts as zero."""
    if ttl >= _MAX_TTL:
        return _MAX_TTL, 0
    if ttl <= 0:
        return 0, 0
    seconds = int(ttl)
    return seconds, int((ttl - seconds) * _NS)


def _attr_values(attr: Attr) -> tuple[int, ...]:
    ino, mode, nlink, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns = attr
    mtime, mtime_nsec = divmod(mtime_ns, _NS)
    # Objects have one time, so the three are mostly the same.
    atime, atime_nsec = (mtime, mtime_nsec) if atime_ns == mtime_ns else divmod(atime_ns, _NS)
    ctime, ctime_nsec = (mtime, mtime_nsec) if ctime_ns == mtime_ns else divmod(ctime_ns, _NS)
    return (
        ino, size, blocks, atime, mtime, ctime, atime_nsec, mtime_nsec, ctime_nsec,
        mode, nlink, uid, gid, rdev, _BLOCK_SIZE, 0,
    )  # fmt: skip


def attr_out(attr: Attr, ttl: float) -> bytes:
    """GETATTR, SETATTR: struct fuse_attr_out."""
    return p.ATTR_OUT.pack(*ttl_parts(ttl), 0, *_attr_values(attr))


def entry_out(entry: Entry) -> bytes:
    """LOOKUP and all that make a name: struct fuse_entry_out. Node id 0 is a negative entry."""
    return p.ENTRY_OUT.pack(*_entry_values(entry))


def _entry_values(entry: Entry) -> tuple[int, ...]:
    attr, entry_ttl, attr_ttl = entry
    entry_seconds, entry_nsec = ttl_parts(entry_ttl)
    attr_seconds, attr_nsec = (
        (entry_seconds, entry_nsec) if attr_ttl == entry_ttl else ttl_parts(attr_ttl)
    )
    if attr is None:
        return (0, 0, entry_seconds, attr_seconds, entry_nsec, attr_nsec, *_NO_ATTR)
    return (
        attr.ino, 0, entry_seconds, attr_seconds, entry_nsec, attr_nsec, *_attr_values(attr),
    )  # fmt: skip


def open_out(opened: Opened) -> bytes:
    """OPEN, OPENDIR, the end of CREATE: struct fuse_open_out."""
    return p.OPEN_OUT.pack(opened.fh, int(opened.flags), opened.backing_id)


def create_out(entry: Entry, opened: Opened) -> bytes:
    return entry_out(entry) + open_out(opened)


def statfs_out(stat: StatFs) -> bytes:
    """STATFS: struct fuse_statfs_out."""
    return p.STATFS_OUT.pack(
        stat.blocks, stat.bfree, stat.bavail, stat.files, stat.ffree,
        stat.bsize, stat.namelen, stat.frsize,
    )  # fmt: skip


def record_size(name_length: int, plus: bool) -> int:
    """Bytes that one name takes in a READDIR or READDIRPLUS reply."""
    return ((p.DIRENTPLUS.size if plus else p.DIRENT.size) + name_length + 7) & ~7


def most_records(size: int, plus: bool) -> int:
    """No more names than this fit into ``size`` bytes."""
    return max(1, size // record_size(1, plus))


def dirents(items: Sequence[DirItem], size: int, plus: bool) -> tuple[bytes, int]:
    """A READDIR(PLUS) reply of at most ``size`` bytes, and how many of ``items`` are in it.

    The kernel counts a lookup for each entry with a node id, except "." and ".."; those two are
    sent without one.
    """
    buffer = bytearray(size)
    head = p.DIRENTPLUS if plus else p.DIRENT
    head_size, pack = head.size, head.pack_into
    used = sent = 0
    for name, ino, mode, cookie, entry in items:
        length = len(name)
        end = used + ((head_size + length + 7) & ~7)
        if end > size:
            break
        if not plus:
            pack(buffer, used, ino, cookie, length, (mode >> 12) & 15)
        else:
            values = _NO_ENTRY if entry is None or name in _DOTS else _entry_values(entry)
            pack(buffer, used, *values, ino, cookie, length, (mode >> 12) & 15)
        start = used + head_size
        buffer[start : start + length] = name
        used = end
        sent += 1
    return bytes(memoryview(buffer)[:used]), sent
