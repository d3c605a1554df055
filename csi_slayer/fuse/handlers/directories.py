"""Requests on open directories."""

from __future__ import annotations

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse import replies
from csi_slayer.fuse.handlers.served import Handler, Served
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.vfs.types import Request


async def opendir(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return replies.open_out(await served.ops.opendir(req, ino))


async def readdir(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return await _list(served, req, ino, body, plus=False)


async def readdirplus(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return await _list(served, req, ino, body, plus=True)


async def _list(served: Served, req: Request, ino: int, body: memoryview, *, plus: bool) -> bytes:
    fh, cookie, size, _flags, _owner, _open_flags, _ = p.READ_IN.unpack_from(body)
    limit = replies.most_records(size, plus)
    items = await served.ops.readdir(req, ino, fh, cookie, limit, plus)
    data, sent = replies.dirents(items, size, plus)
    if plus:
        # Each entry counts as a lookup; the kernel will not forget those it did not get.
        for item in items[sent:]:
            if item.entry is not None and item.entry.attr is not None:
                served.ops.unsent(item.ino)
    return data


async def releasedir(served: Served, req: Request, ino: int, body: memoryview) -> None:
    fh, _flags, _release_flags, _owner = p.RELEASE_IN.unpack_from(body)
    await served.ops.releasedir(req, ino, fh)


async def fsyncdir(served: Served, req: Request, ino: int, body: memoryview) -> None:
    fh, flags, _ = p.FSYNC_IN.unpack_from(body)
    await served.ops.fsyncdir(req, ino, fh, bool(flags & p.FSYNC_FDATASYNC))


HANDLERS: dict[Opcode, Handler] = {
    Opcode.READDIR: readdir,
    Opcode.RELEASEDIR: releasedir,
    Opcode.FSYNCDIR: fsyncdir,
}

OPENDIR_HANDLERS: dict[Opcode, Handler] = {Opcode.OPENDIR: opendir}
READDIRPLUS_HANDLERS: dict[Opcode, Handler] = {Opcode.READDIRPLUS: readdirplus}
