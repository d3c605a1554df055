"""One row of the inode table, as the layers above see it."""

from __future__ import annotations

import stat
from typing import NamedTuple


class Mark:
    """Bits of the ``flags`` column. Plain integers: an enum's operators cost microseconds, and
    every request looks at these."""

    NONE = 0
    ATTRS_KNOWN = 1
    """Mode, owner and times come from the object's metadata or were set here."""
    ATTRS_DIRTY = 2
    """They were changed here and the object does not have them yet."""
    MARKER = 4
    """A directory that has, or shall have, a marker object (a key ending in a slash)."""
    LARGE = 8
    """A directory of more than one page of a listing: single names are looked up singly."""
    OVERLAY = 16
    """The staged copy is partial: its block map says what it holds, the object has the rest."""
    XATTRS = 64
    """It has, or once had, extended attributes."""
    UNSYNCED = 128
    """The staged copy was not made durable since it was made or the store got it: after a power
    loss bytes may be missing, or older than what the store has."""
    UNWRITTEN = 256
    """The local disk has refused to keep the staged bytes, which the store may lack."""
    SUSPECT = 512
    """The staged copy is what a power loss has left. More may have been uploaded than was noted."""
    UNKEPT = 1024
    """The local disk may have other bytes than the page cache: it is to become no segment."""
    UNSURE = 2048
    """It was sent while somebody might have written to it past the page cache."""
    OF_STAGE = UNSYNCED | UNWRITTEN | SUSPECT | UNKEPT | UNSURE
    """These go with the staged copy."""
    LISTED = 32
    """A directory whose names were all read at least once."""


class Inode(NamedTuple):
    """See :mod:`csi_slayer.catalog.schema` for the columns."""

    ino: int
    parent: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    etag: str | None
    origin: str | None
    stage: str | None
    stamp: int | None
    target: str | None
    flags: int
    checked_ns: int
    listed_ns: int
    place: int
    lost: str | None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_unread(self) -> bool:
        """Whether it is an object whose metadata nobody has looked at: a file, or what only
        metadata can tell. What is being written here is a regular file, whatever its object was."""
        return (
            not self.flags & Mark.ATTRS_KNOWN
            and self.etag is not None
            and self.stage is None
            and not self.is_dir
        )


UNREAD = (
    f"i.flags & {Mark.ATTRS_KNOWN} = 0 AND i.etag IS NOT NULL AND i.stage IS NULL "
    f"AND i.mode & {0o170000} != {stat.S_IFDIR}"
)
""":attr:`Inode.is_unread` in SQL."""


COLUMNS = Inode._fields
SELECT = "SELECT " + ",".join(f"i.{name}" for name in COLUMNS) + " FROM inodes i "
INSERT = f"INSERT INTO inodes({','.join(COLUMNS)}) VALUES ({','.join('?' * len(COLUMNS))})"


class Found(NamedTuple):
    """A new inode as a listing shows it: what is not the same for all of them. A page has a
    thousand, and each column that need not be bound saves time."""

    ino: int
    parent: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    time_ns: int
    etag: str | None
    stamp: int | None
    checked_ns: int
    place: int


INSERT_FOUND = (
    "INSERT INTO inodes(ino,parent,mode,nlink,uid,gid,size,atime_ns,mtime_ns,ctime_ns,etag,stamp,"
    "checked_ns,place) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?8,?8,?9,?10,?11,?12)"
)


class Name(NamedTuple):
    """One name of a directory, and of its inode what a listing of names needs."""

    name: str
    ino: int
    place: int
    mode: int
    size: int
    is_unread: int


VACATED = 3
"""``doubt`` of a key from which an inode's content has moved away, or whose object may be somebody
else's by now: a deletion is one of the version that is expected there, and of no other."""


class Pending(NamedTuple):
    """A key whose object may have to change; ``expect`` as in the schema."""

    key: str
    expect: str | None
    since_ns: int
    attempts: int
    error: str | None
    token: str
    doubt: int


class Listed(NamedTuple):
    """One name found by a listing. ``mode`` has the type bits; ``etag`` None for a directory."""

    name: str
    mode: int
    size: int
    mtime_ns: int
    etag: str | None


class Defaults(NamedTuple):
    """Attributes of objects that carry none: owner and permission bits."""

    uid: int
    gid: int
    file_mode: int
    dir_mode: int
