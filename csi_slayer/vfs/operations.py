"""The calls a FUSE engine makes on a file system: the one contract between ``fuse`` and ``vfs``.

Every method may raise :class:`csi_slayer.errors.SlayerError`; the engine answers its ``errno``.
A method that need not wait must not suspend, so that an engine can drive it inline. Cancelling
a method's task is how an interrupted request ends; the engine then answers EINTR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from csi_slayer.vfs.types import (
    Attr,
    DirItem,
    Entry,
    Kernel,
    Opened,
    ReadResult,
    Request,
    SetAttr,
    StatFs,
)


class Operations(Protocol):
    """A file system. ``zero_upcall`` asks the engine to answer OPEN, OPENDIR and FLUSH with
    ENOSYS where the kernel supports that; read and readdir then come with ``fh`` 0."""

    @property
    def zero_upcall(self) -> bool: ...

    @property
    def read_only(self) -> bool: ...

    def attach(self, kernel: Kernel) -> None:
        """Called once, before the first request."""

    async def lookup(self, req: Request, parent: int, name: bytes) -> Entry: ...
    def forget(self, ino: int, count: int) -> None:
        """The kernel has dropped an inode, for which it had so many answers."""

    def unsent(self, ino: int) -> None:
        """An entry of :meth:`readdir` did not fit: the kernel has an answer less than was given,
        but it may well have the inode."""

    async def getattr(self, req: Request, ino: int, fh: int | None) -> tuple[Attr, float]: ...
    async def setattr(self, req: Request, ino: int, changes: SetAttr) -> tuple[Attr, float]: ...
    async def readlink(self, req: Request, ino: int) -> bytes: ...
    async def symlink(self, req: Request, parent: int, name: bytes, target: bytes) -> Entry: ...
    async def mknod(
        self, req: Request, parent: int, name: bytes, mode: int, rdev: int
    ) -> Entry: ...
    async def mkdir(self, req: Request, parent: int, name: bytes, mode: int) -> Entry: ...
    async def unlink(self, req: Request, parent: int, name: bytes) -> None: ...
    async def rmdir(self, req: Request, parent: int, name: bytes) -> None: ...
    async def rename(
        self,
        req: Request,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
    ) -> None:
        """``flags``: 0, RENAME_NOREPLACE (1) or RENAME_EXCHANGE (2)."""

    async def link(self, req: Request, ino: int, new_parent: int, new_name: bytes) -> Entry: ...
    async def open(self, req: Request, ino: int, flags: int) -> Opened: ...
    async def create(
        self, req: Request, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]: ...
    async def read(self, req: Request, ino: int, fh: int, offset: int, size: int) -> ReadResult: ...
    async def write(
        self, req: Request, ino: int, fh: int, offset: int, data: memoryview, append: bool = False
    ) -> int:
        """``data`` is valid until the method returns. ``append``: it goes to the end of the file;
        ``offset`` is where the kernel believes that to be."""

    async def flush(self, req: Request, ino: int, fh: int) -> None: ...
    async def release(self, req: Request, ino: int, fh: int) -> None: ...
    async def fsync(self, req: Request, ino: int, fh: int, datasync: bool) -> None: ...
    async def opendir(self, req: Request, ino: int) -> Opened: ...
    async def readdir(
        self, req: Request, ino: int, fh: int, cookie: int, limit: int, plus: bool
    ) -> Sequence[DirItem]:
        """At most ``limit`` names after ``cookie`` (0 at the start), "." and ".." included; empty
        at the end. The engine may send fewer of them and ask again from the last one sent."""

    async def releasedir(self, req: Request, ino: int, fh: int) -> None: ...
    async def fsyncdir(self, req: Request, ino: int, fh: int, datasync: bool) -> None: ...
    async def statfs(self, req: Request, ino: int) -> StatFs: ...
    async def access(self, req: Request, ino: int, mask: int) -> None: ...
    async def getxattr(self, req: Request, ino: int, name: bytes) -> bytes: ...
    async def listxattr(self, req: Request, ino: int) -> Sequence[bytes]: ...
    async def setxattr(
        self, req: Request, ino: int, name: bytes, value: bytes, flags: int
    ) -> None: ...
    async def removexattr(self, req: Request, ino: int, name: bytes) -> None: ...
    async def fallocate(
        self, req: Request, ino: int, fh: int, mode: int, offset: int, length: int
    ) -> None: ...
    async def lseek(self, req: Request, ino: int, fh: int, offset: int, whence: int) -> int: ...
    async def copy_file_range(
        self,
        req: Request,
        ino: int,
        fh: int,
        offset: int,
        out_ino: int,
        out_fh: int,
        out_offset: int,
        length: int,
    ) -> int: ...
