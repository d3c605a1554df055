"""Comparing what a segment holds with its checksums."""

from __future__ import annotations

import os

import xxhash

from csi_slayer.cache.blockmap import BlockMap, block_hash
from csi_slayer.cache.files import discard
from csi_slayer.cache.header import boot_generation
from csi_slayer.cache.layout import BLOCK
from csi_slayer.cache.opened import OpenSegment
from csi_slayer.cache.oserrors import UNREADABLE, translated


def verify(opened: OpenSegment, offset: int, length: int, *, again: bool) -> int:
    """Check present blocks of a range and drop those that differ, or that the disk cannot give
    back; returns how many did.

    ``again``: also those that are trusted. Raises CacheError.
    """
    with opened.pinned():
        blocks = opened.blocks
        try:
            if blocks is None:
                return _verify_whole(opened) if again or not opened.trusted else 0
            first, end = offset // BLOCK, min(-(-(offset + length) // BLOCK), blocks.blocks)
            if opened.trusted and not again:
                return 0
            bad = _verify_blocks(opened, blocks, first, end, again)
            if not opened.trusted and 0 not in opened.checked:
                everything = blocks.has(0, blocks.blocks)
                blocks.stamp = os.fstat(opened.fd).st_mtime_ns if everything else 0
                blocks.generation = boot_generation()
                opened.trusted = True
            return bad
        except OSError as error:
            raise translated(error, "verifying a segment") from error


def _verify_blocks(opened: OpenSegment, blocks: BlockMap, first: int, end: int, again: bool) -> int:
    bad = 0
    buffer = bytearray(BLOCK)
    for block in range(first, end):
        if not (again or opened.trusted) and opened.checked[block]:
            continue
        want = blocks.get(block)
        if want:
            view = memoryview(buffer)[: min(BLOCK, opened.size - block * BLOCK)]
            if _read(opened.fd, view, block * BLOCK) != len(view) or block_hash(view) != want:
                opened.dropped(block)
                bad += 1
        if not opened.trusted:
            opened.checked[block] = 1
    if bad:
        opened.shared.events.corrupt_blocks.add(bad)
    return bad


def _read(fd: int, view: memoryview, offset: int) -> int:
    """Bytes read into ``view``; -1 if the disk has lost them. Raises OSError."""
    try:
        return os.preadv(fd, [view], offset)
    except OSError as error:
        if error.errno in UNREADABLE:
            return -1
        raise


def _verify_whole(opened: OpenSegment) -> int:
    stamp = os.fstat(opened.fd).st_mtime_ns
    data = memoryview(bytearray(opened.size + 1))
    read = _read(opened.fd, data, 0)
    if read == opened.size and xxhash.xxh3_64_intdigest(data[:read]) == opened.header.check:
        if not opened.trusted:
            opened.found_good(stamp)
        return 0
    discard(opened.shared, opened.name, os.fstat(opened.fd), opened.header)
    opened.shared.events.corrupt_segments.add()
    with opened.shared.lock:
        opened.forget()
    opened.found_bad()
    return 1
