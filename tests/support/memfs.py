"""A file system for tests of the FUSE engine: metadata in memory, contents in local files.

It is simple on purpose: what it does must be obvious, for it is what the engine is held against.
``Behaviour`` makes it do what an engine must cope with: wait in the middle, hand out backing
files, answer with ranges of local files, serve without opens.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from csi_slayer.errors import FsError
from csi_slayer.vfs.types import (
    Attr,
    DirItem,
    Entry,
    FileRange,
    Kernel,
    Opened,
    OpenFlags,
    ReadResult,
    Request,
    SetAttr,
    StatFs,
)

ROOT = 1
NOREPLACE, EXCHANGE = 1, 2
BLOCKED = b"blocked"
"""Reading or writing a file whose name begins so waits until ``let_go`` is called."""


@dataclass
class Behaviour:
    """``reads``: how READ is answered. ``slow``: every call waits a turn of the loop first, and
    writes a few more. ``persist``: metadata survives in a file beside the contents."""

    ttl: float = 0.0
    reads: str = "bytes"  # or "view", "range"
    slow: bool = False
    passthrough: bool = False
    direct_io: bool = False
    zero_upcall: bool = False
    read_only: bool = False
    persist: bool = False


@dataclass
class Node:
    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    rdev: int = 0
    target: str = ""
    parent: int = ROOT
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    children: dict[str, int] = field(default_factory=dict)
    xattrs: dict[str, str] = field(default_factory=dict)


def _text(name: bytes) -> str:
    return name.decode("latin-1")


def _bytes(name: str) -> bytes:
    return name.encode("latin-1")


class MemFs:
    """Implements :class:`csi_slayer.vfs.operations.Operations`; contents are files in ``store``."""

    def __init__(self, store: Path, behaviour: Behaviour) -> None:
        self.store = store
        self.behaviour = behaviour
        self.kernel: Kernel | None = None
        self.calls: Counter[str] = Counter()
        self.seen: list[tuple[str, int, bool]] = []
        self.lookups: Counter[int] = Counter()
        self.opens: Counter[int] = Counter()
        self.backing: dict[int, int] = {}
        self.waiting = 0
        self.cancelled = 0
        self._gate = asyncio.Event()
        self._nodes: dict[int, Node] = {}
        self._fds: dict[int, int] = {}
        self._meta = store / "meta.json"
        if behaviour.persist and self._meta.exists():
            for raw in json.loads(self._meta.read_text()):
                self._nodes[raw["ino"]] = Node(**raw)
        else:
            self._nodes[ROOT] = Node(ROOT, stat.S_IFDIR | 0o777, nlink=2)
        self._next = max(self._nodes) + 1

    # -- what tests do from outside the kernel -----------------------------------------------

    def put(self, name: str, data: bytes) -> int:
        """A file in the root directory, as if it had come from elsewhere."""
        root = self._nodes[ROOT]
        ino = root.children.get(name)
        if ino is None:
            ino = self._new(ROOT, _bytes(name), stat.S_IFREG | 0o644, None).ino
        self._content(ino).write_bytes(data)
        self._nodes[ino].mtime_ns = time.time_ns()
        self._save()
        return ino

    def let_go(self) -> None:
        """Let the calls that wait go on."""
        self._gate.set()

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    # -- inner parts ---------------------------------------------------------------------------

    @property
    def zero_upcall(self) -> bool:
        return self.behaviour.zero_upcall

    @property
    def read_only(self) -> bool:
        return self.behaviour.read_only

    def attach(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def _enter(self, call: str, req: Request) -> None:
        self.calls[call] += 1
        if req.resent:
            self.seen.append((call, req.unique, req.resent))
        if self.behaviour.slow:
            await asyncio.sleep(0)

    async def _hold(self, ino: int) -> None:
        """Wait if the file is one of those that block."""
        if not any(
            child == ino and _bytes(name).startswith(BLOCKED)
            for name, child in self._nodes[ROOT].children.items()
        ):
            return
        self.waiting += 1
        try:
            async with asyncio.timeout(60):
                await self._gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    def _save(self) -> None:
        if self.behaviour.persist:
            temporary = self._meta.with_suffix(".new")
            temporary.write_text(json.dumps([asdict(node) for node in self._nodes.values()]))
            temporary.rename(self._meta)

    def _content(self, ino: int) -> Path:
        return self.store / str(ino)

    def _fd(self, ino: int) -> int:
        if ino not in self._fds:
            self._fds[ino] = os.open(self._content(ino), os.O_RDWR | os.O_CLOEXEC)
        return self._fds[ino]

    def _node(self, ino: int) -> Node:
        node = self._nodes.get(ino)
        if node is None:
            raise FsError(errno.ESTALE)
        return node

    def _dir(self, ino: int) -> Node:
        node = self._node(ino)
        if not stat.S_ISDIR(node.mode):
            raise FsError(errno.ENOTDIR)
        return node

    def _child(self, parent: int, name: bytes) -> Node:
        ino = self._dir(parent).children.get(_text(name))
        if ino is None:
            raise FsError(errno.ENOENT)
        return self._node(ino)

    def _new(self, parent: int, name: bytes, mode: int, req: Request | None) -> Node:
        directory = self._dir(parent)
        if _text(name) in directory.children:
            raise FsError(errno.EEXIST)
        now = time.time_ns()
        node = Node(self._next, mode, parent=parent, atime_ns=now, mtime_ns=now, ctime_ns=now)
        if req is not None:
            node.uid, node.gid = req.uid, req.gid
        self._next += 1
        self._nodes[node.ino] = node
        directory.children[_text(name)] = node.ino
        directory.mtime_ns = directory.ctime_ns = now
        if stat.S_ISREG(mode):
            self._content(node.ino).touch()
        if stat.S_ISDIR(mode):
            node.nlink = 2
            directory.nlink += 1
        self._save()
        return node

    def _attr(self, node: Node) -> Attr:
        size = 0
        if stat.S_ISREG(node.mode):
            if self.behaviour.passthrough or node.ino in self._fds:
                size = os.fstat(self._fd(node.ino)).st_size
            else:
                size = self._content(node.ino).stat().st_size
        elif node.target:
            size = len(node.target)
        return Attr(
            node.ino, node.mode, node.nlink, node.uid, node.gid, node.rdev, size,
            (size + 511) // 512, node.atime_ns, node.mtime_ns, node.ctime_ns,
        )  # fmt: skip

    def _entry(self, node: Node) -> Entry:
        self.lookups[node.ino] += 1
        return Entry(self._attr(node), self.behaviour.ttl, self.behaviour.ttl)

    def _drop(self, node: Node) -> None:
        """A name is gone; with the last one and the last handle the file goes, too."""
        node.nlink -= 1
        node.ctime_ns = time.time_ns()
        self._reap(node.ino)

    def _reap(self, ino: int) -> None:
        node = self._nodes.get(ino)
        if node is None or node.nlink > 0 or self.opens[ino] > 0:
            return
        del self._nodes[ino]
        fd = self._fds.pop(ino, None)
        if fd is not None:
            os.close(fd)
        if stat.S_ISREG(node.mode):
            self._content(ino).unlink()
        self._save()

    # -- names -----------------------------------------------------------------------------------

    async def lookup(self, req: Request, parent: int, name: bytes) -> Entry:
        await self._enter("lookup", req)
        return self._entry(self._child(parent, name))

    def forget(self, ino: int, count: int) -> None:
        self.calls["forget"] += 1
        self.lookups[ino] -= count

    def unsent(self, ino: int) -> None:
        self.lookups[ino] -= 1

    async def readlink(self, req: Request, ino: int) -> bytes:
        await self._enter("readlink", req)
        return _bytes(self._node(ino).target)

    async def symlink(self, req: Request, parent: int, name: bytes, target: bytes) -> Entry:
        await self._enter("symlink", req)
        node = self._new(parent, name, stat.S_IFLNK | 0o777, req)
        node.target = _text(target)
        self._save()
        return self._entry(node)

    async def mknod(self, req: Request, parent: int, name: bytes, mode: int, rdev: int) -> Entry:
        await self._enter("mknod", req)
        node = self._new(parent, name, mode, req)
        node.rdev = rdev
        return self._entry(node)

    async def mkdir(self, req: Request, parent: int, name: bytes, mode: int) -> Entry:
        await self._enter("mkdir", req)
        return self._entry(self._new(parent, name, stat.S_IFDIR | mode, req))

    async def unlink(self, req: Request, parent: int, name: bytes) -> None:
        await self._enter("unlink", req)
        node = self._child(parent, name)
        if stat.S_ISDIR(node.mode):
            raise FsError(errno.EISDIR)
        del self._dir(parent).children[_text(name)]
        self._drop(node)
        self._save()

    async def rmdir(self, req: Request, parent: int, name: bytes) -> None:
        await self._enter("rmdir", req)
        node = self._child(parent, name)
        if not stat.S_ISDIR(node.mode):
            raise FsError(errno.ENOTDIR)
        if node.children:
            raise FsError(errno.ENOTEMPTY)
        del self._dir(parent).children[_text(name)]
        self._dir(parent).nlink -= 1
        node.nlink = 0
        self._reap(node.ino)
        self._save()

    async def rename(
        self, req: Request, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        await self._enter("rename", req)
        node = self._child(parent, name)
        other_ino = self._dir(new_parent).children.get(_text(new_name))
        if flags == EXCHANGE:
            if other_ino is None:
                raise FsError(errno.ENOENT)
            self._dir(parent).children[_text(name)] = other_ino
            self._dir(new_parent).children[_text(new_name)] = node.ino
            node.parent, self._node(other_ino).parent = new_parent, parent
            self._save()
            return
        if flags not in (0, NOREPLACE):
            raise FsError(errno.EINVAL)
        if other_ino is not None:
            if flags == NOREPLACE:
                raise FsError(errno.EEXIST)
            if other_ino == node.ino:
                return
            other = self._node(other_ino)
            if other.children:
                raise FsError(errno.ENOTEMPTY)
            del self._dir(new_parent).children[_text(new_name)]
            if stat.S_ISDIR(other.mode):
                other.nlink = 1
                self._dir(new_parent).nlink -= 1
            self._drop(other)
        del self._dir(parent).children[_text(name)]
        self._dir(new_parent).children[_text(new_name)] = node.ino
        node.parent = new_parent
        if stat.S_ISDIR(node.mode):
            self._dir(parent).nlink -= 1
            self._dir(new_parent).nlink += 1
        self._save()

    async def link(self, req: Request, ino: int, new_parent: int, new_name: bytes) -> Entry:
        await self._enter("link", req)
        directory, node = self._dir(new_parent), self._node(ino)
        if _text(new_name) in directory.children:
            raise FsError(errno.EEXIST)
        directory.children[_text(new_name)] = ino
        node.nlink += 1
        self._save()
        return self._entry(node)

    # -- attributes ------------------------------------------------------------------------------

    async def getattr(self, req: Request, ino: int, fh: int | None) -> tuple[Attr, float]:
        await self._enter("getattr", req)
        return self._attr(self._node(ino)), self.behaviour.ttl

    async def setattr(self, req: Request, ino: int, changes: SetAttr) -> tuple[Attr, float]:
        await self._enter("setattr", req)
        node = self._node(ino)
        if changes.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(changes.mode)
        if changes.uid is not None:
            node.uid = changes.uid
        if changes.gid is not None:
            node.gid = changes.gid
        if changes.size is not None:
            os.truncate(self._content(ino), changes.size)
            node.mtime_ns = time.time_ns()
        if changes.atime_ns is not None:
            node.atime_ns = changes.atime_ns
        if changes.mtime_ns is not None:
            node.mtime_ns = changes.mtime_ns
        node.ctime_ns = time.time_ns()
        self._save()
        return self._attr(node), self.behaviour.ttl

    async def access(self, req: Request, ino: int, mask: int) -> None:
        await self._enter("access", req)

    async def statfs(self, req: Request, ino: int) -> StatFs:
        await self._enter("statfs", req)
        return StatFs(1000, 600, 500, 100, 50, 4096, 4096, 255)

    async def getxattr(self, req: Request, ino: int, name: bytes) -> bytes:
        await self._enter("getxattr", req)
        value = self._node(ino).xattrs.get(_text(name))
        if value is None:
            raise FsError(errno.ENODATA)
        return _bytes(value)

    async def listxattr(self, req: Request, ino: int) -> Sequence[bytes]:
        await self._enter("listxattr", req)
        return [_bytes(name) for name in self._node(ino).xattrs]

    async def setxattr(self, req: Request, ino: int, name: bytes, value: bytes, flags: int) -> None:
        await self._enter("setxattr", req)
        xattrs = self._node(ino).xattrs
        if flags & os.XATTR_CREATE and _text(name) in xattrs:
            raise FsError(errno.EEXIST)
        if flags & os.XATTR_REPLACE and _text(name) not in xattrs:
            raise FsError(errno.ENODATA)
        xattrs[_text(name)] = _text(value)
        self._save()

    async def removexattr(self, req: Request, ino: int, name: bytes) -> None:
        await self._enter("removexattr", req)
        if self._node(ino).xattrs.pop(_text(name), None) is None:
            raise FsError(errno.ENODATA)
        self._save()

    # -- files -----------------------------------------------------------------------------------

    def _opened(self, node: Node) -> Opened:
        self.opens[node.ino] += 1
        kernel = self.kernel
        if self.behaviour.passthrough and kernel is not None and kernel.passthrough:
            if node.ino not in self.backing:
                self.backing[node.ino] = kernel.backing_open(self._fd(node.ino))
            return Opened(node.ino, OpenFlags.PASSTHROUGH, self.backing[node.ino])
        return Opened(node.ino, OpenFlags.DIRECT_IO if self.behaviour.direct_io else OpenFlags.NONE)

    async def open(self, req: Request, ino: int, flags: int) -> Opened:
        await self._enter("open", req)
        if flags & os.O_TRUNC:
            os.truncate(self._content(ino), 0)
        return self._opened(self._node(ino))

    async def create(
        self, req: Request, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        await self._enter("create", req)
        child = self._dir(parent).children.get(_text(name))
        if child is None:
            node = self._new(parent, name, stat.S_IFREG | stat.S_IMODE(mode), req)
        elif flags & os.O_EXCL:
            raise FsError(errno.EEXIST)
        else:
            node = self._node(child)
            if flags & os.O_TRUNC:
                os.truncate(self._content(node.ino), 0)
        return self._entry(node), self._opened(node)

    async def read(self, req: Request, ino: int, fh: int, offset: int, size: int) -> ReadResult:
        await self._enter("read", req)
        await self._hold(ino)
        if self.behaviour.reads == "range":
            return FileRange(self._fd(ino), offset, size)
        data = os.pread(self._fd(ino), size, offset)
        return memoryview(data) if self.behaviour.reads == "view" else data

    async def write(
        self, req: Request, ino: int, fh: int, offset: int, data: memoryview, append: bool = False
    ) -> int:
        await self._enter("write", req)
        await self._hold(ino)
        if self.behaviour.slow:
            # The data must stay as it is while other requests are read.
            for _ in range(5):
                await asyncio.sleep(0)
        self._node(ino).mtime_ns = time.time_ns()
        return os.pwrite(self._fd(ino), data, offset)

    async def flush(self, req: Request, ino: int, fh: int) -> None:
        await self._enter("flush", req)

    async def release(self, req: Request, ino: int, fh: int) -> None:
        await self._enter("release", req)
        self.opens[ino] -= 1
        if self.opens[ino] == 0 and ino in self.backing and self.kernel is not None:
            self.kernel.backing_close(self.backing.pop(ino))
        self._reap(ino)

    async def fsync(self, req: Request, ino: int, fh: int, datasync: bool) -> None:
        await self._enter("fdatasync" if datasync else "fsync", req)

    async def fallocate(
        self, req: Request, ino: int, fh: int, mode: int, offset: int, length: int
    ) -> None:
        await self._enter("fallocate", req)
        if mode:
            raise FsError(errno.EOPNOTSUPP)
        os.posix_fallocate(self._fd(ino), offset, length)

    async def lseek(self, req: Request, ino: int, fh: int, offset: int, whence: int) -> int:
        await self._enter("lseek", req)
        try:
            return os.lseek(self._fd(ino), offset, whence)
        except OSError as error:
            raise FsError(error.errno or errno.EIO) from error

    async def copy_file_range(
        self, req: Request, ino: int, fh: int, offset: int, out_ino: int, out_fh: int,
        out_offset: int, length: int,
    ) -> int:  # fmt: skip
        await self._enter("copy_file_range", req)
        data = os.pread(self._fd(ino), min(length, 1 << 20), offset)
        return os.pwrite(self._fd(out_ino), data, out_offset)

    # -- directories -----------------------------------------------------------------------------

    async def opendir(self, req: Request, ino: int) -> Opened:
        await self._enter("opendir", req)
        return Opened(0)

    async def readdir(
        self, req: Request, ino: int, fh: int, cookie: int, limit: int, plus: bool
    ) -> Sequence[DirItem]:
        await self._enter("readdirplus" if plus else "readdir", req)
        directory = self._dir(ino)
        names: list[tuple[bytes, int]] = [(b".", ino), (b"..", directory.parent)]
        names += [(_bytes(name), child) for name, child in directory.children.items()]
        items = []
        for position in range(cookie, min(cookie + limit, len(names))):
            name, child = names[position]
            node = self._node(child)
            entry = self._entry(node) if plus and position > 1 else None
            items.append(DirItem(name, child, node.mode, position + 1, entry))
        return items

    async def releasedir(self, req: Request, ino: int, fh: int) -> None:
        await self._enter("releasedir", req)

    async def fsyncdir(self, req: Request, ino: int, fh: int, datasync: bool) -> None:
        await self._enter("fsyncdir", req)

    def report(self) -> dict[str, Any]:
        """What happened, for a test in another process."""
        return {
            "calls": dict(self.calls),
            "seen": self.seen,
            "waiting": self.waiting,
            "cancelled": self.cancelled,
            "lookups": {str(ino): count for ino, count in self.lookups.items() if count},
            "backing": len(self.backing),
            "released": self.calls["release"],
            "written": self.calls["write"],
        }
