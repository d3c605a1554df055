"""Requests about attributes: stat, its changes, xattrs, access, and the file system's size."""

from __future__ import annotations

import errno
import stat

from csi_slayer.errors import FsError
from csi_slayer.fuse import protocol as p
from csi_slayer.fuse import replies, requests
from csi_slayer.fuse.handlers.served import Handler, Served
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.vfs.operations import Operations
from csi_slayer.vfs.types import Request, SetAttr


async def getattr_(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    flags, _, fh = p.GETATTR_IN.unpack_from(body)
    return replies.attr_out(
        *await served.ops.getattr(req, ino, fh if flags & p.GETATTR_FH else None)
    )


async def setattr_(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    changes, kill = requests.setattr_in(body)
    if kill and changes.mode is None:
        mode = await mode_without_set_ids(served.ops, req, ino)
        if mode is not None:
            changes = changes._replace(mode=mode)
    return replies.attr_out(*await served.ops.setattr(req, ino, changes))


async def kill_suidgid(served: Served, req: Request, ino: int) -> None:
    """Take set-id bits away before a file's content is changed (FUSE_HANDLE_KILLPRIV_V2). The
    kernel leaves that to us and keeps the mode that it knows."""
    mode = await mode_without_set_ids(served.ops, req, ino)
    if mode is not None:
        await served.ops.setattr(req._replace(resent=False), ino, SetAttr(mode=mode))
    if mode is not None or req.resent:  # by a worker that perhaps had no time to tell the kernel
        served.attributes_changed(ino)


async def mode_without_set_ids(ops: Operations, req: Request, ino: int) -> int | None:
    """The permission bits that remain; None if there is nothing to take away."""
    attr, _ttl = await ops.getattr(req, ino, None)
    mode = attr.mode & ~stat.S_ISUID
    # Set-group-id without group execution means mandatory locking and stays.
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode if mode != attr.mode else None


async def readlink(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return await served.ops.readlink(req, ino)


async def access(served: Served, req: Request, ino: int, body: memoryview) -> None:
    mask, _ = p.ACCESS_IN.unpack_from(body)
    await served.ops.access(req, ino, mask)


async def statfs(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return replies.statfs_out(await served.ops.statfs(req, ino))


async def getxattr(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    size, _ = p.GETXATTR_IN.unpack_from(body)
    name = requests.name(body, p.GETXATTR_IN.size)
    return _sized(await served.ops.getxattr(req, ino, name), size)


async def listxattr(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    size, _ = p.GETXATTR_IN.unpack_from(body)
    names = await served.ops.listxattr(req, ino)
    return _sized(b"".join(name + b"\0" for name in names), size)


def _sized(value: bytes, size: int) -> bytes:
    """The value, or its length where the caller asks for that by a size of 0."""
    if size == 0:
        return p.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise FsError(errno.ERANGE)
    return value


async def setxattr(served: Served, req: Request, ino: int, body: memoryview) -> None:
    name, value, flags = requests.xattr_in(body, served.setxattr_ext)
    await served.ops.setxattr(req, ino, name, value, flags)


async def removexattr(served: Served, req: Request, ino: int, body: memoryview) -> None:
    await served.ops.removexattr(req, ino, requests.name(body))


HANDLERS: dict[Opcode, Handler] = {
    Opcode.GETATTR: getattr_,
    Opcode.SETATTR: setattr_,
    Opcode.READLINK: readlink,
    Opcode.ACCESS: access,
    Opcode.STATFS: statfs,
}

XATTR_HANDLERS: dict[Opcode, Handler] = {
    Opcode.GETXATTR: getxattr,
    Opcode.LISTXATTR: listxattr,
    Opcode.SETXATTR: setxattr,
    Opcode.REMOVEXATTR: removexattr,
}
