"""Requests on open files.

Of who may not keep set-id bits the kernel tells at a WRITE; at a FALLOCATE and a COPY_FILE_RANGE it
does not, nor at an OPEN with O_TRUNC without FUSE_HANDLE_KILLPRIV_V2: everybody but root, then.
"""

from __future__ import annotations

import os

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse import replies, requests
from csi_slayer.fuse.channel import Reply
from csi_slayer.fuse.handlers.attributes import kill_suidgid
from csi_slayer.fuse.handlers.served import Handler, Served
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.vfs.types import FileRange, Request, Views

_MOST_COPIED = 0xFFFFF000
"""Bytes of one COPY_FILE_RANGE, whose reply has 32 bits for them."""


async def open_(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    flags, open_flags = p.OPEN_IN.unpack_from(body)
    if flags & os.O_TRUNC and (open_flags & p.OPEN_KILL_SUIDGID or req.uid):
        await kill_suidgid(served, req, ino)
    return replies.open_out(await served.ops.open(req, ino, flags))


async def read(served: Served, req: Request, ino: int, body: memoryview) -> Reply:
    fh, offset, size, _flags, _owner, _open_flags, _ = p.READ_IN.unpack_from(body)
    result = await served.ops.read(req, ino, fh, offset, size)
    if isinstance(result, FileRange):
        return await served.reader.load(result, size)
    if isinstance(result, Views):
        return result
    return result if len(result) <= size else memoryview(result)[:size]


async def write(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    fh, offset, flags, append, data = requests.write_in(body)
    if flags & p.WRITE_KILL_SUIDGID:
        await kill_suidgid(served, req, ino)
    return p.WRITE_OUT.pack(await served.ops.write(req, ino, fh, offset, data, append), 0)


async def flush(served: Served, req: Request, ino: int, body: memoryview) -> None:
    fh, _, _, _owner = p.FLUSH_IN.unpack_from(body)
    await served.ops.flush(req, ino, fh)


async def release(served: Served, req: Request, ino: int, body: memoryview) -> None:
    fh, _flags, _release_flags, _owner = p.RELEASE_IN.unpack_from(body)
    await served.ops.release(req, ino, fh)


async def fsync(served: Served, req: Request, ino: int, body: memoryview) -> None:
    fh, flags, _ = p.FSYNC_IN.unpack_from(body)
    await served.ops.fsync(req, ino, fh, bool(flags & p.FSYNC_FDATASYNC))


async def fallocate(served: Served, req: Request, ino: int, body: memoryview) -> None:
    fh, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(body)
    if req.uid:
        await kill_suidgid(served, req, ino)
    await served.ops.fallocate(req, ino, fh, mode, offset, length)


async def lseek(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    fh, offset, whence, _ = p.LSEEK_IN.unpack_from(body)
    return p.LSEEK_OUT.pack(await served.ops.lseek(req, ino, fh, offset, whence))


async def copy_file_range(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return p.WRITE_OUT.pack(await _copy(served, req, ino, body, _MOST_COPIED), 0)


async def copy_file_range_64(served: Served, req: Request, ino: int, body: memoryview) -> bytes:
    return p.COPY_FILE_RANGE_OUT.pack(await _copy(served, req, ino, body, (1 << 63) - 1))


async def _copy(served: Served, req: Request, ino: int, body: memoryview, most: int) -> int:
    fh, offset, out_ino, out_fh, out_offset, length, _ = p.COPY_FILE_RANGE_IN.unpack_from(body)
    if req.uid:
        await kill_suidgid(served, req, out_ino)
    return await served.ops.copy_file_range(
        req, ino, fh, offset, out_ino, out_fh, out_offset, min(length, most)
    )


HANDLERS: dict[Opcode, Handler] = {
    Opcode.READ: read,
    Opcode.WRITE: write,
    Opcode.RELEASE: release,
    Opcode.FSYNC: fsync,
}

OPEN_HANDLERS: dict[Opcode, Handler] = {Opcode.OPEN: open_, Opcode.FLUSH: flush}
FALLOCATE_HANDLERS: dict[Opcode, Handler] = {Opcode.FALLOCATE: fallocate}
LSEEK_HANDLERS: dict[Opcode, Handler] = {Opcode.LSEEK: lseek}
COPY_HANDLERS: dict[Opcode, Handler] = {
    Opcode.COPY_FILE_RANGE: copy_file_range,
    Opcode.COPY_FILE_RANGE_64: copy_file_range_64,
}
