"""Making a staged file that has been uploaded the segment of the version that it now is."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress

import xxhash

from csi_slayer.cache.blockmap import BlockMap, block_hash, map_bytes
from csi_slayer.cache.files import free_replaced, standing
from csi_slayer.cache.header import MAPPED, WHOLE, Header, boot_generation
from csi_slayer.cache.key import SegmentKey
from csi_slayer.cache.layout import BLOCK, SMALL
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.shared import Shared
from csi_slayer.errors import CacheError

ADOPT_WAIT = 1.0
"""Seconds that a large file waits for the room to become a segment."""


def adopt(
    shared: Shared, key: SegmentKey, stage_path: str, size: int, given: int | None = None
) -> None:
    """See :meth:`csi_slayer.cache.cache.Cache.adopt`.

    The header and the map, which nobody reads under the staged name, come first; the rename
    makes them valid. A map that a crash left behind belongs to no data file (its name holds a
    number that no header has) and is removed when the governor next starts.
    """
    with shared.lock:
        opened = shared.opened.get(key.hex)
        if opened is not None and opened.size == size and opened.complete:
            with suppress(FileNotFoundError):
                os.unlink(stage_path)
            return
    try:
        fd = given if given is not None else os.open(stage_path, os.O_RDWR | os.O_NOATIME)
    except OSError as error:
        raise translated(error, "opening a staged file") from error
    try:
        _adopt(shared, key, fd, stage_path, size)
    except OSError as error:
        raise translated(error, "making a staged file a segment") from error
    finally:
        if given is None:
            os.close(fd)


def _adopt(shared: Shared, key: SegmentKey, fd: int, stage_path: str, size: int) -> None:
    layout, path = shared.layout, shared.layout.data(key.hex)
    before = os.fstat(fd)
    if before.st_size != size:
        raise CacheError(f"the staged file has {before.st_size} bytes, not {size}")
    staged = before.st_blocks * 512
    map_path = None
    if size <= SMALL:
        room, wait = staged, 0.0
        data = os.pread(fd, size, 0)
        header = _whole(key, size, before, xxhash.xxh3_64_intdigest(data))
    else:  # in a thread, which may wait
        room, wait = staged + shared.ledger.on_disk(map_bytes(size)), ADOPT_WAIT
        nonce = secrets.randbits(64)
        map_path = layout.map(key.hex, nonce)
        header = Header(MAPPED, size, 0, 0, nonce, key.raw)
    shared.ledger.reserve(room, wait, staged=staged)
    try:
        if map_path is not None:
            blocks = BlockMap.create(map_path, size, header.check, boot_generation())
            try:
                for block, value in enumerate(_hashes(fd, size)):
                    blocks.set(block, value)
                blocks.stamp = before.st_mtime_ns
            finally:
                blocks.close()
        if os.fstat(fd).st_mtime_ns != before.st_mtime_ns:
            raise CacheError("the staged file was written to while it became a segment")
        header.write(fd, layout.xattr)
        replaced = standing(layout, key.hex)  # not sooner: the governor may have removed it
        os.rename(stage_path, path)
    except BaseException:
        shared.ledger.release(room)
        if map_path is not None:
            with suppress(OSError):
                os.unlink(map_path)
        raise
    with shared.lock:
        # Whoever has an incomplete segment open keeps it; who comes now gets this one.
        shared.opened.pop(key.hex, None)
    free_replaced(shared, key.hex, replaced)


def _whole(key: SegmentKey, size: int, stat: os.stat_result, check: int) -> Header:
    return Header(WHOLE, size, boot_generation(), stat.st_mtime_ns, check, key.raw)


def _hashes(fd: int, size: int) -> Iterator[int]:
    buffer = bytearray(BLOCK)
    for offset in range(0, size, BLOCK):
        view = memoryview(buffer)[: min(BLOCK, size - offset)]
        if os.preadv(fd, [view], offset) != len(view):
            raise CacheError("the staged file became shorter while it became a segment")
        yield block_hash(view)
