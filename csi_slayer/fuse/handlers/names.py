"""Requests about names: finding, making, removing and moving them."""

from __future__ import annotations

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse import replies, requests
from csi_slayer.fuse.handlers.served import Handler, Served
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.vfs.types import Request


async def lookup(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return replies.entry_out(await served.ops.lookup(req, ino, requests.name(body)))


async def symlink(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    name, target = requests.two_names(body)
    return replies.entry_out(await served.ops.symlink(req, ino, name, target))


async def mknod(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    mode, rdev, _umask, _ = p.MKNOD_IN.unpack_from(body)
    name = requests.name(body, p.MKNOD_IN.size)
    return replies.entry_out(await served.ops.mknod(req, ino, name, mode, rdev))


async def mkdir(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    mode, _umask = p.MKDIR_IN.unpack_from(body)
    name = requests.name(body, p.MKDIR_IN.size)
    return replies.entry_out(await served.ops.mkdir(req, ino, name, mode))


async def unlink(served: Served, req: Request, ino: int, body: memoryview) -> None:
    await served.ops.unlink(req, ino, requests.name(body))


async def rmdir(served: Served, req: Request, ino: int, body: memoryview) -> None:
    await served.ops.rmdir(req, ino, requests.name(body))


async def rename(served: Served, req: Request, ino: int, body: memoryview) -> None:
    (new_parent,) = p.RENAME_IN.unpack_from(body)
    name, new_name = requests.two_names(body, p.RENAME_IN.size)
    await served.ops.rename(req, ino, name, new_parent, new_name, 0)


async def rename2(served: Served, req: Request, ino: int, body: memoryview) -> None:
    new_parent, flags, _ = p.RENAME2_IN.unpack_from(body)
    name, new_name = requests.two_names(body, p.RENAME2_IN.size)
    await served.ops.rename(req, ino, name, new_parent, new_name, flags)


async def link(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    """``ino`` is the directory of the new name."""
    (target,) = p.LINK_IN.unpack_from(body)
    name = requests.name(body, p.LINK_IN.size)
    return replies.entry_out(await served.ops.link(req, target, ino, name))


async def create(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    flags, mode, _umask, _ = p.CREATE_IN.unpack_from(body)
    name = requests.name(body, p.CREATE_IN.size)
    return replies.create_out(*await served.ops.create(req, ino, name, mode, flags))


HANDLERS: dict[Opcode, Handler] = {
    Opcode.LOOKUP: lookup,
    Opcode.SYMLINK: symlink,
    Opcode.MKNOD: mknod,
    Opcode.MKDIR: mkdir,
    Opcode.UNLINK: unlink,
    Opcode.RMDIR: rmdir,
    Opcode.RENAME: rename,
    Opcode.RENAME2: rename2,
    Opcode.LINK: link,
    Opcode.CREATE: create,
}
