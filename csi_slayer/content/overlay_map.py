"""The file beside a partial staged copy that says which blocks it has, and what that file was when
both were last made durable.

Format: 64-byte header (magic, block size, ``limit``), then a byte per block. ``limit`` is the
offset up to which absent blocks come from the object; beyond it they are zeros (the file was
truncated shorter at some time). The header also has the size of the object in one of its versions:
the inode that a partial copy is opened by has the size of the file.

The map says what the page cache has. After a power loss it may name blocks whose bytes never came
to the disk: then the state of the last sync counts, which is written after the bytes that it names.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from contextlib import suppress

import xxhash

from csi_slayer.cache.layout import sync_directory
from csi_slayer.cache.staging import SIDECAR, SYNCED

BLOCK = 128 << 10
MAGIC = b"SLOVL1\0\0"
HEADER = struct.Struct("<8sQQ")
HEADER_SIZE = 64
LIMIT_AT = 16
# In a checkpoint: hashes of the etags that the object had, the mtime of the staged file.
_BASE_AT, _TIME_AT = 24, 40
# The hash of the etag of the version that has so many bytes.
_OBJECT_AT = 48


def is_valid(data: bytes) -> bool:
    """Whether a map begins with these bytes."""
    return len(data) >= HEADER_SIZE and HEADER.unpack_from(data)[:2] == (MAGIC, BLOCK)


def note_object(states: mmap.mmap, etag: str, size: int) -> None:
    """The version ``etag`` of the object has ``size`` bytes."""
    states[_OBJECT_AT : _OBJECT_AT + 8] = bytes(8)  # a death between the next two leaves none
    struct.pack_into("<Q", states, _OBJECT_AT + 8, size)
    states[_OBJECT_AT : _OBJECT_AT + 8] = _base(etag)


def object_size(states: mmap.mmap, etag: str) -> int | None:
    """The size of that version; None if it is not noted."""
    if states[_OBJECT_AT : _OBJECT_AT + 8] != _base(etag):
        return None
    size: int = struct.unpack_from("<Q", states, _OBJECT_AT + 8)[0]
    return size


def checkpoint(path: str, map_fd: int, etags: tuple[str, str], sync: Callable[[], None]) -> None:
    """Make the staged copy at ``path`` durable by ``sync``, and its map as it was before. ``etags``
    are the version of the object that has the other blocks, and the one before, for the catalog
    may be older on the disk. Blocks: call it in a thread. Raises OSError; then the checkpoint
    before is as good as it was."""
    states = bytearray(_content(map_fd))
    states[_BASE_AT : _BASE_AT + 16] = _base(etags[0]) + _base(etags[1])
    states[_TIME_AT : _TIME_AT + 8] = _time(path)
    sync()
    # In place: what a power loss leaves of it names blocks that are durable, or fewer.
    if os.path.exists(path):
        _write(path + SYNCED, states)
        sync_directory(os.path.dirname(path))


def is_current(path: str, etag: str) -> bool:
    """Whether there is a checkpoint over this version, and nothing was written since. Raises
    OSError."""
    try:
        fd = os.open(path + SYNCED, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        now = _base(etag), _time(path)
        return (os.pread(fd, 8, _BASE_AT), os.pread(fd, 8, _TIME_AT)) == now
    finally:
        os.close(fd)


def forget_checkpoint(path: str) -> None:
    """The store has what the staged copy has: after a power loss that counts."""
    with suppress(FileNotFoundError):
        os.unlink(path + SYNCED)


def revoke_checkpoint(path: str) -> None:
    """Before what is not in the map changes its meaning: a file that is cut is no mixture of blocks
    that were before and after. Durable. Blocks: call it in a thread. Raises OSError."""
    if os.path.exists(path + SYNCED):
        os.unlink(path + SYNCED)
        sync_directory(os.path.dirname(path))


def restore(path: str, etag: str) -> bool:
    """After a power loss: take the map back to the last checkpoint; False if there was none over
    this version of the object. Raises OSError."""
    try:
        fd = os.open(path + SYNCED, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        states = _content(fd)
    finally:
        os.close(fd)
    bases = (states[_BASE_AT : _BASE_AT + 8], states[_BASE_AT + 8 : _BASE_AT + 16])
    if not is_valid(states) or _base(etag) not in bases:
        return False
    _write(path + SIDECAR, states)
    return True


def _base(etag: str) -> bytes:
    return xxhash.xxh3_64_digest(etag.encode())


def _time(path: str) -> bytes:
    return os.stat(path).st_mtime_ns.to_bytes(8, "little", signed=True)


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _write(path: str, data: bytes | bytearray) -> None:
    """Replace a file's content."""
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
