"""The file beside a partial staged copy that says which blocks it has, and what that file was when
both were last made durable.

Format: 64-byte header (magic, block size, ``limit``), then a byte per block. ``limit`` is the
offset up to which absent blocks come from the object; beyond it they are zeros (the file was
truncated shorter at some time).

The map says what the page cache has. After a power loss it may name blocks whose bytes never came
to the disk: then the state of the last sync counts, which is written after the bytes that it names.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from csi_slayer.cache.staging import SIDECAR, SYNCED

BLOCK = 128 << 10
MAGIC = b"SLOVL1\0\0"
HEADER = struct.Struct("<8sQQ")
HEADER_SIZE = 64
LIMIT_AT = 16


def is_valid(data: bytes) -> bool:
    """Whether a map begins with these bytes."""
    return len(data) >= HEADER_SIZE and HEADER.unpack_from(data)[:2] == (MAGIC, BLOCK)


def checkpoint(path: str, fd: int, map_fd: int) -> None:
    """Make the staged copy at ``path`` durable, and its map as it was before. Blocks: call it in a
    thread. Raises OSError; then the checkpoint before is as good as it was."""
    states = _content(map_fd)
    os.fdatasync(fd)
    # In place: what a power loss leaves of it names blocks that are durable, or fewer.
    if os.path.exists(path) and _write(path + SYNCED, states):
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def forget_checkpoint(path: str) -> None:
    """The store has what the staged copy has: after a power loss that counts."""
    with suppress(FileNotFoundError):
        os.unlink(path + SYNCED)


def restore(path: str) -> bool:
    """After a power loss: take the map back to the last checkpoint; False if there was none.
    Raises OSError."""
    try:
        fd = os.open(path + SYNCED, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        states = _content(fd)
    finally:
        os.close(fd)
    if not is_valid(states):
        return False
    _write(path + SIDECAR, states)
    return True


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _write(path: str, data: bytes) -> bool:
    """Replace a file's content; whether it was empty before."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size, done = os.fstat(fd).st_size, 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], done)
        if size > len(data):
            os.ftruncate(fd, len(data))
        os.fdatasync(fd)
    finally:
        os.close(fd)
    return size == 0
