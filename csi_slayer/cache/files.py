"""Opening and making the files of segments.

Making is done under a temporary name, so that whatever has a segment's name is whole; opening
takes a lock and then looks at what it has got, for the file may have been evicted, replaced or
taken by a writer between the two.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import ExitStack, suppress
from typing import NamedTuple

import xxhash

from csi_slayer.cache.blockmap import BlockMap, map_bytes
from csi_slayer.cache.header import MAPPED, WHOLE, Header, boot_generation, read_header
from csi_slayer.cache.key import SegmentKey
from csi_slayer.cache.layout import Layout
from csi_slayer.cache.opened import OpenSegment
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.shared import Shared
from csi_slayer.cache.sweep import remove_map


class Replaced(NamedTuple):
    """Header of a data file, and its bytes on the disk."""

    header: Header | None
    size: int


def open_segment(shared: Shared, key: SegmentKey, size: int) -> OpenSegment | None:
    """The segment that is on the disk, not yet counted as used; ``shared.lock`` is held.

    None if there is none, or if it was damaged (it is removed then). Raises CacheError.
    """
    layout = shared.layout
    path = layout.data(key.hex)
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOATIME)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translated(error, "opening a segment") from error
    opened = None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        stat = os.fstat(fd)
        header = read_header(fd, layout.xattr)
        if stat.st_nlink and header is not None and header.fits(key, size, stat):
            blocks = None
            if header.kind == MAPPED:
                blocks = BlockMap.open(layout.map(key.hex, header.check), size, header.check)
            if header.kind == WHOLE or blocks is not None:
                opened = OpenSegment(shared, key.hex, fd, header, stat, blocks)
        if opened is None and discard(shared, key.hex, stat, header):
            # Pieces of large files are of another size where the cache's capacity was another.
            if header is None or not size != header.size == stat.st_size:
                shared.events.corrupt_segments.add()
    except BlockingIOError:
        pass  # being evicted, or becoming a staged file
    except OSError as error:
        raise translated(error, "opening a segment") from error
    finally:
        if opened is None:
            os.close(fd)
    return opened


def discard(shared: Shared, name: str, stat: os.stat_result, header: Header | None) -> bool:
    """Remove a damaged segment; False if it has been replaced or removed already. Raises
    OSError."""
    path = shared.layout.data(name)
    try:
        if os.stat(path).st_ino != stat.st_ino:
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    shared.ledger.freed(stat.st_blocks * 512 + remove_map(shared.layout, name, header))
    return True


def standing(layout: Layout, name: str) -> Replaced | None:
    """What has the name now and is about to be replaced; None if nothing has. Raises OSError,
    CacheError."""
    path = layout.data(name)
    try:
        blocks = os.stat(path).st_blocks
    except FileNotFoundError:
        return None
    return Replaced(read_header(path, layout.xattr), blocks * 512)


def free_replaced(shared: Shared, name: str, old: Replaced | None) -> None:
    """Another file has taken the place of ``old``."""
    if old is not None:
        shared.ledger.freed(old.size + remove_map(shared.layout, name, old.header))


def make_segment(shared: Shared, key: SegmentKey, size: int) -> OpenSegment:
    """A segment in which nothing is present, not yet counted as used; ``shared.lock`` is held.

    If another process has made it meanwhile, that one. Raises OSError, CacheFull.
    """
    layout, nonce = shared.layout, secrets.randbits(64)
    room = shared.ledger.on_disk(map_bytes(size))
    shared.ledger.reserve(room)
    with ExitStack() as undo:
        undo.callback(shared.ledger.release, room)
        temporary = layout.temporary(key.hex)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOATIME, 0o600)
        undo.callback(os.close, fd)
        undo.callback(os.unlink, temporary)
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.ftruncate(fd, size)
        header = Header(MAPPED, size, 0, 0, nonce, key.raw)
        header.write(fd, layout.xattr)
        path = layout.map(key.hex, nonce)
        blocks = BlockMap.create(path, size, nonce, boot_generation())
        undo.callback(os.unlink, path)
        undo.callback(blocks.close)
        try:
            os.link(temporary, layout.data(key.hex))
            named = True
        except FileExistsError:
            if (opened := open_segment(shared, key, size)) is not None:
                return opened
            named = False  # another is being removed from there: ours stays without a name
        undo.pop_all()
        os.unlink(temporary)
        if not named:
            os.unlink(path)
            shared.ledger.release(room)
        return OpenSegment(shared, key.hex, fd, header, os.fstat(fd), blocks, fresh=True)


def write_whole(shared: Shared, key: SegmentKey, data: bytes | memoryview) -> tuple[int, Header]:
    """Write a segment of kind WHOLE under a temporary name, then rename it."""
    layout = shared.layout
    temporary = layout.temporary(key.hex)
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOATIME, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        view, offset = memoryview(data), 0
        while offset < len(view):
            offset += os.pwrite(fd, view[offset:], offset)
        header = Header(
            WHOLE,
            len(view),
            boot_generation(),
            os.fstat(fd).st_mtime_ns,
            xxhash.xxh3_64_intdigest(view),
            key.raw,
        )
        header.write(fd, layout.xattr)
        old = standing(layout, key.hex)
        os.rename(temporary, layout.data(key.hex))
        free_replaced(shared, key.hex, old)
        return fd, header
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            os.unlink(temporary)
        raise
