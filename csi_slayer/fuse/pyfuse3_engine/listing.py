"""READDIRPLUS: the names of a directory, each with its attributes."""

from __future__ import annotations

import errno
from typing import Final

import pyfuse3

from csi_slayer.errors import FsError
from csi_slayer.fuse.pyfuse3_engine import values
from csi_slayer.vfs.operations import Operations
from csi_slayer.vfs.types import DirItem, Entry, Request

NAMES_AT_ONCE: Final = 32
"""Names asked of the file system at a time; how many the kernel's buffer holds is not known."""

_DOTS: Final = (b".", b"..")


async def list_names(
    ops: Operations, req: Request, ino: int, fh: int, cookie: int, token: pyfuse3.ReaddirToken
) -> None:
    """Fill a reply with the names after ``cookie``. The kernel counts a lookup of each that it
    gets, and will not forget the others."""
    while items := await ops.readdir(req, ino, fh, cookie, NAMES_AT_ONCE, plus=True):
        for at, item in enumerate(items):
            if not await _send(ops, req, ino, item, token):
                for unseen in items[at + 1 :]:
                    if unseen.entry is not None and unseen.entry.attr is not None:
                        ops.unsent(unseen.ino)
                return
        cookie = items[-1].cookie


async def _send(
    ops: Operations, req: Request, ino: int, item: DirItem, token: pyfuse3.ReaddirToken
) -> bool:
    """Add a name to the reply; False if it is full."""
    name = pyfuse3.FileNameT(item.name)
    if name in _DOTS:
        return pyfuse3.readdir_reply(token, name, values.dot(item.ino, item.mode), item.cookie)
    # libfuse cannot send a name without attributes.
    entry = item.entry if item.entry is not None else await _look_up(ops, req, ino, name)
    if entry is None or entry.attr is None:
        return True  # it is gone again
    if pyfuse3.readdir_reply(token, name, values.entry(entry), item.cookie):
        return True
    ops.unsent(entry.attr.ino)
    return False


async def _look_up(ops: Operations, req: Request, ino: int, name: bytes) -> Entry | None:
    try:
        return await ops.lookup(req, ino, name)
    except FsError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
