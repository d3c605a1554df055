"""A segment that this process has open: its one descriptor, its block map, its state.

However often a segment is opened in a process, there is one of these; the handles that callers
hold (:class:`csi_slayer.cache.segment.Segment`) and the writes under way are counted, and the last
one closes it. Its descriptor holds ``flock`` LOCK_SH, which keeps the segment from eviction; the
lock belongs to the open file description, so a description that the kernel keeps for passthrough
goes on holding it when the process has died.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

from csi_slayer.cache.blockmap import BlockMap, block_count, block_hash
from csi_slayer.cache.events import CacheEvents
from csi_slayer.cache.header import Header, boot_generation
from csi_slayer.cache.layout import BLOCK, Layout
from csi_slayer.cache.ledger import Ledger, on_disk
from csi_slayer.cache.marks import Marks
from csi_slayer.cache.oserrors import translated
from csi_slayer.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Shared:
    """What the parts of one process's cache have in common. ``lock`` guards ``opened`` and the
    reference counts; it is held for microseconds."""

    layout: Layout
    ledger: Ledger
    marks: Marks
    events: CacheEvents
    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: dict[str, OpenSegment] = field(default_factory=dict)


class OpenSegment:
    """See the module. ``header`` and ``stat`` are of the open file ``fd``, which it owns; ``map``
    is None for a segment of kind WHOLE."""

    __slots__ = (
        "_checked", "_complete", "_cursor", "_header", "_map", "_trusted",
        "fd", "name", "refs", "shared", "size",
    )  # fmt: skip

    def __init__(
        self,
        shared: Shared,
        name: str,
        fd: int,
        header: Header,
        stat: os.stat_result,
        blocks: BlockMap | None,
    ) -> None:
        self.name = name
        self.fd = fd
        self.size = header.size
        self.refs = 0
        self.shared = shared
        self._header = header
        self._map = blocks
        self._cursor = 0
        generation = header.generation if blocks is None else blocks.generation
        stamp = header.stamp if blocks is None else blocks.stamp or stat.st_mtime_ns
        self._trusted = generation == boot_generation() and stamp == stat.st_mtime_ns
        self._complete = blocks is None and self._trusted
        self._checked = bytearray(0 if self._trusted else block_count(self.size))

    # -- life ------------------------------------------------------------------------------

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Keep the descriptor open during a call in a thread; CacheError if it is closed."""
        with self.shared.lock:
            if self.refs == 0:
                raise CacheError("the segment is closed")
            self.refs += 1
        try:
            yield
        finally:
            self.unpin()

    def unpin(self) -> None:
        """Count one user less; the last one closes descriptor and map."""
        with self.shared.lock:
            self.refs -= 1
            if self.refs:
                return
            self.forget()
        self.discard_map()
        os.close(self.fd)
        self.fd = -1

    def forget(self) -> None:
        """Let the next opening of this name look at the disk again. ``shared.lock`` is held."""
        if self.shared.opened.get(self.name) is self:
            del self.shared.opened[self.name]

    def discard_map(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    # -- state -----------------------------------------------------------------------------

    @property
    def needs_verify(self) -> bool:
        return not self._trusted

    @property
    def complete(self) -> bool:
        """Whether all bytes are present and known good. The one who finds that the last block
        has come stamps the map, whoever wrote it."""
        if self._complete:
            return True
        blocks = self._map
        if blocks is None or not self._trusted:
            return False
        if blocks.stamp == 0:
            cursor, end = self._cursor, blocks.blocks
            while cursor < end and blocks.get(cursor):
                cursor += 1
            self._cursor = cursor
            if cursor < end:
                return False
            if not blocks.has(0, end):
                self._cursor = 0
                return False
            blocks.stamp = os.fstat(self.fd).st_mtime_ns
        self._complete = True
        return True

    @property
    def undisturbed(self) -> bool:
        """Whether a complete segment's file still is as it was stamped."""
        stamp = self._header.stamp if self._map is None else self._map.stamp
        return os.fstat(self.fd).st_mtime_ns == stamp

    def present(self, offset: int, length: int) -> bool:
        if self._complete:
            return True
        blocks = self._map
        if blocks is None:
            return False
        first, end = offset // BLOCK, min(-(-(offset + length) // BLOCK), blocks.blocks)
        if not blocks.has(first, end):
            return False
        return self._trusted or 0 not in self._checked[first:end]

    def missing(self, offset: int, length: int) -> list[tuple[int, int]]:
        if self._complete:
            return []
        gaps: list[tuple[int, int]] = []
        start = None
        first, end = offset // BLOCK, min(-(-(offset + length) // BLOCK), block_count(self.size))
        for block in range(first, end):
            if self._has(block):
                if start is not None:
                    gaps.append((start * BLOCK, (block - start) * BLOCK))
                    start = None
            elif start is None:
                start = block
        if start is not None:
            gaps.append((start * BLOCK, min(end * BLOCK, self.size) - start * BLOCK))
        return gaps

    @property
    def present_bytes(self) -> int:
        """Bytes of present blocks, verified or not."""
        if self._map is None:
            return self.size
        last = self.size - (self._map.blocks - 1) * BLOCK
        return BLOCK * (self._map.count() - 1) + (
            last if self._map.get(self._map.blocks - 1) else BLOCK
        )

    def _has(self, block: int) -> bool:
        return (
            self._map is not None
            and self._map.get(block) != 0
            and (self._trusted or self._checked[block] != 0)
        )

    # -- writing ---------------------------------------------------------------------------

    def write_block(self, offset: int, data: bytes | memoryview, wait: float) -> None:
        block, rest = divmod(offset, BLOCK)
        if rest or len(data) != min(BLOCK, self.size - offset) or not len(data):
            raise ValueError(f"{len(data)} bytes at {offset} are not a block of {self.size}")
        with self.pinned():
            if self._complete or self._has(block):
                return
            blocks = self._map
            if blocks is None:
                raise CacheError("a whole segment must be verified before it is written to")
            reserved = 0 if blocks.get(block) else on_disk(len(data))
            if reserved:
                self.shared.ledger.reserve(reserved, wait)
            try:
                self._write(offset, memoryview(data))
            except OSError as error:
                self.shared.ledger.release(reserved)
                raise translated(error, "writing to the cache") from error
            blocks.set(block, block_hash(data))
            if not self._trusted:
                self._checked[block] = 1
            _ = self.complete

    def _write(self, offset: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written

    # -- verifying -------------------------------------------------------------------------

    def verify(self, offset: int, length: int, *, again: bool) -> int:
        """Check present blocks of a range and drop those that differ; returns how many did.

        ``again``: also those that are trusted.
        """
        with self.pinned():
            try:
                if self._map is None:
                    return self._verify_whole() if again or not self._trusted else 0
                first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
                return self._verify_blocks(first, min(end, self._map.blocks), again)
            except OSError as error:
                raise translated(error, "verifying a segment") from error

    def _verify_blocks(self, first: int, end: int, again: bool) -> int:
        blocks, bad = self._map, 0
        assert blocks is not None
        buffer = bytearray(BLOCK)
        for block in range(first, end):
            want = blocks.get(block)
            if not again and (self._trusted or self._checked[block]):
                continue
            if want:
                size = min(BLOCK, self.size - block * BLOCK)
                view = memoryview(buffer)[:size]
                if os.preadv(self.fd, [view], block * BLOCK) != size or block_hash(view) != want:
                    bad += 1
                    self._complete = False
                    self._cursor = 0
                    blocks.set(block, 0)
                    blocks.stamp = 0
            if not self._trusted:
                self._checked[block] = 1
        if bad:
            self.shared.events.corrupt_blocks.add(bad)
        if not self._trusted and 0 not in self._checked:
            everything = blocks.has(0, blocks.blocks)
            blocks.stamp = os.fstat(self.fd).st_mtime_ns if everything else 0
            blocks.generation = boot_generation()
            self._trusted = True
        return bad

    def _verify_whole(self) -> int:
        stat = os.fstat(self.fd)
        data = os.pread(self.fd, self.size + 1, 0)
        if len(data) == self.size and xxhash.xxh3_64_intdigest(data) == self._header.check:
            if not self._trusted:
                self._header = self._header._replace(
                    generation=boot_generation(), stamp=stat.st_mtime_ns
                )
                self._header.write(self.fd, self.shared.layout.xattr)
                self._trusted = self._complete = True
            return 0
        self._drop_whole()
        return 1

    def _drop_whole(self) -> None:
        """The bytes are bad: take the segment from everybody, and go on with it as one that has
        nothing, so that whoever has it open can fill it again."""
        with suppress(FileNotFoundError):
            os.unlink(self.shared.layout.data(self.name))
        self.shared.events.corrupt_segments.add()
        with self.shared.lock:
            self.forget()
        os.ftruncate(self.fd, self.size)
        self._complete = False
        self._map = BlockMap.private(self.size)
        self._trusted = True
