"""Looking through all segments: what there is, what is left over, and removing one of them."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from csi_slayer.cache.header import MAPPED, Header, read_header
from csi_slayer.cache.layout import SMALL, Layout
from csi_slayer.cache.oserrors import is_lost

STALE = 60.0
"""Seconds after which something unfinished is left over, not under way."""

_NAME = re.compile(r"[0-9a-f]{32}\Z")
_MAP = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})\.map\Z")
_RECORD = struct.Struct(">QI16s")


class Found(NamedTuple):
    """What a sweep found: the number of segments, and the bytes on the disk of everything."""

    segments: int
    used: int


def key_and_pages(record: bytes) -> tuple[int, int]:
    """A segment's number, and its size on the disk in pages of 4096 bytes."""
    _born, pages, key = _RECORD.unpack(record)
    return int.from_bytes(key, "big"), pages


def is_segment(name: str) -> bool:
    """Whether a file of this name is a segment's data."""
    return _NAME.match(name) is not None


def names(layout: Layout) -> Iterator[str]:
    """The names of all segments. Runs along the disk: in a thread."""
    for shard in layout.shards():
        with suppress(FileNotFoundError):
            for name in os.listdir(shard):
                if _NAME.match(name):
                    yield name


def record_of(layout: Layout, name: str) -> bytes | None:
    """The record of one segment; None if it is gone, or cannot be looked at."""
    try:
        stat = os.stat(layout.data(name))
    except OSError as error:
        if not is_lost(error):
            raise
        return None
    # Bytes, not a tuple: they sort by birth as they are, in a fourth of the memory.
    born = max(0, stat.st_mtime_ns)  # users give their files any time, also one before 1970
    return _RECORD.pack(born, -(-stat.st_blocks // 8), bytes.fromhex(name))


def sweep(layout: Layout) -> Found:
    """Count all segments and remove what is left over: unfinished data files, maps without data,
    mapped data without a map. What the disk has lost is passed over. Runs along the disk: in a
    thread."""
    segments = used = 0
    for shard in layout.shards():
        maps: list[tuple[str, str, int]] = []
        large: set[str] = set()
        others: list[str] = []
        try:
            entries = os.scandir(shard)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                try:
                    stat = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if not is_lost(error):
                        raise
                    continue
                used += stat.st_blocks * 512
                if _NAME.match(entry.name):
                    segments += 1
                    if stat.st_size > SMALL:
                        large.add(entry.name)
                elif match := _MAP.match(entry.name):
                    maps.append((entry.path, match[1], int(match[2], 16)))
                else:
                    others.append(entry.path)
        for path in others:
            _remove_stale(path)
        _match_maps(layout, maps, large)
    return Found(segments, used)


def _match_maps(layout: Layout, maps: list[tuple[str, str, int]], large: set[str]) -> None:
    """Remove maps whose data file is gone or another, and large data files without a map."""
    for path, name, nonce in maps:
        header = read_header(layout.data(name), layout.xattr)
        if header is not None and header.kind == MAPPED and header.check == nonce:
            large.discard(name)
        else:
            _remove_stale(path)
    for name in large:
        _remove_stale(layout.data(name))


def _remove_stale(path: str) -> None:
    """Remove a file that is older than :data:`STALE` and that nobody has locked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    except OSError as error:
        if not is_lost(error):
            raise
        return
    with suppress(FileNotFoundError, BlockingIOError):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ctime < time.time() - STALE:
                os.unlink(path)
        finally:
            os.close(fd)


def remove_map(layout: Layout, name: str, header: Header | None) -> int:
    """Remove the block map of a data file that had this header, if there is one; returns the bytes
    that this frees."""
    freed = 0
    if header is not None and header.kind == MAPPED:
        path = layout.map(name, header.check)
        with suppress(FileNotFoundError):
            freed = os.stat(path).st_blocks * 512
            os.unlink(path)
    return freed


def evict(layout: Layout, name: str) -> int | None:
    """Remove a segment unless it is in use (None); returns the bytes that this frees.

    The data file goes first. A crash then leaves a map that nobody will look at, for it belongs
    to that data file alone; the other way round would leave something that looks damaged.
    """
    path = layout.data(name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    except OSError as error:
        if not is_lost(error):
            raise
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        header = read_header(fd, layout.xattr)
        freed = os.fstat(fd).st_blocks * 512
        os.unlink(path)
        return freed + remove_map(layout, name, header)
    except BlockingIOError:
        return None
    except FileNotFoundError:
        return 0
    finally:
        os.close(fd)
