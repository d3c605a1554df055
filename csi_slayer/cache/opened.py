"""A segment that this process has open: its one descriptor, its block map, its state.

However often a segment is opened in a process, there is one of these; the handles that callers
hold (:class:`csi_slayer.cache.segment.Segment`) and the writes under way are counted, and the last
one closes it. Its descriptor holds ``flock`` LOCK_SH, which keeps the segment from eviction; the
lock belongs to the open file description, so a description that the kernel keeps for passthrough
goes on holding it when the process has died.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from csi_slayer.cache.blockmap import BlockMap, block_count, block_hash
from csi_slayer.cache.direct import ALIGNMENT
from csi_slayer.cache.filesystem import KEEP_SIZE, fallocate
from csi_slayer.cache.fresh import PIECE
from csi_slayer.cache.header import Header, boot_generation
from csi_slayer.cache.layout import BLOCK
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.shared import Shared
from csi_slayer.errors import CacheError, CacheFull

PARTS_KEPT = 4096
"""Closed partial segments that need not be verified again if nobody changed them."""


class OpenSegment:
    """See the module. ``header`` and ``stat`` are of the open file ``fd``, which it owns; ``map``
    is None for a segment of kind WHOLE."""

    __slots__ = (
        "_complete", "_counted", "_counting", "_cursor", "_direct_fd", "_growers",
        "_nameless", "_nameless_since", "blocks", "checked", "fd", "header", "name", "refs",
        "shared", "size", "trusted",
    )  # fmt: skip

    def __init__(
        self,
        shared: Shared,
        name: str,
        fd: int,
        header: Header,
        stat: os.stat_result,
        blocks: BlockMap | None,
        *,
        fresh: bool = False,
    ) -> None:
        self.name = name
        self.fd = fd
        self._direct_fd = -1
        self.size = header.size
        self.refs = 0
        self.shared = shared
        self.header = header
        self.blocks = blocks
        self._cursor = 0
        self._counted = self._growers = self._nameless = self._nameless_since = 0
        self._counting = threading.Lock()
        generation = header.generation if blocks is None else blocks.generation
        stamp = header.stamp if blocks is None else blocks.stamp
        if blocks is not None and stamp == 0:
            # In part: nothing says whether map and data are as somebody left them, but for what
            # this process remembers.
            left = shared.parts.pop(name, None)
            same = fresh or left == (blocks.digest(), stat.st_mtime_ns)
            known = same or blocks.count() == 0
        else:
            known = stamp == stat.st_mtime_ns
        self.trusted = known and generation == boot_generation()
        self._complete = blocks is None and self.trusted
        self.checked = bytearray(0 if self.trusted else block_count(self.size))

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
            self._remember()
            self.forget()
        self.discard()
        os.close(self.fd)
        self.fd = -1
        ledger = self.shared.ledger
        if self._nameless and self._nameless_since == ledger.counts:
            ledger.freed(self._nameless)

    def _remember(self) -> None:
        """Let the next opening here trust what is as it was left. ``shared.lock`` is held."""
        blocks, parts = self.blocks, self.shared.parts
        if blocks is None or blocks.stamp or not self.trusted:
            return
        while len(parts) >= PARTS_KEPT:
            del parts[next(iter(parts))]
        parts[self.name] = (blocks.digest(), os.fstat(self.fd).st_mtime_ns)

    def forget(self) -> None:
        """Let the next opening of this name look at the disk again. ``shared.lock`` is held."""
        if self.shared.opened.get(self.name) is self:
            del self.shared.opened[self.name]

    def discard(self) -> None:
        """Let go of everything but ``fd``."""
        if self.blocks is not None:
            self.blocks.close()
            self.blocks = None
        if self._direct_fd >= 0:
            os.close(self._direct_fd)
            self._direct_fd = -1

    # -- state -----------------------------------------------------------------------------

    @property
    def needs_verify(self) -> bool:
        return not self.trusted

    @property
    def complete(self) -> bool:
        """Whether all bytes are present and known good. The one who finds that the last block
        has come stamps the map, whoever wrote it."""
        if self._complete:
            return True
        blocks = self.blocks
        if blocks is None or not self.trusted:
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
        stamp = self.header.stamp if self.blocks is None else self.blocks.stamp
        return os.fstat(self.fd).st_mtime_ns == stamp

    def dropped(self, block: int) -> None:
        """A block turned out to be bad."""
        blocks = self.blocks
        assert blocks is not None
        self._complete = False
        self._cursor = 0
        blocks.set(block, 0)
        blocks.stamp = 0

    def found_good(self, stamp: int) -> None:
        """The whole file, with this mtime, has its checksum."""
        self.header = self.header._replace(generation=boot_generation(), stamp=stamp)
        self.header.write(self.fd, self.shared.layout.xattr)
        self.trusted = self._complete = True

    def found_bad(self) -> None:
        """The whole file has not: go on with nothing present, so that it can be filled again."""
        os.ftruncate(self.fd, self.size)
        self._complete = False
        self.blocks = BlockMap.private(self.size)
        self.trusted = True

    def present(self, offset: int, length: int) -> bool:
        if self._complete:
            return True
        blocks = self.blocks
        if blocks is None:
            return False
        first, end = offset // BLOCK, min(-(-(offset + length) // BLOCK), blocks.blocks)
        if not blocks.has(first, end):
            return False
        return self.trusted or 0 not in self.checked[first:end]

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
        if self.blocks is None:
            return self.size
        last = self.size - (self.blocks.blocks - 1) * BLOCK
        return BLOCK * (self.blocks.count() - 1) + (
            last if self.blocks.get(self.blocks.blocks - 1) else BLOCK
        )

    def _has(self, block: int) -> bool:
        return (
            self.blocks is not None
            and self.blocks.get(block) != 0
            and (self.trusted or self.checked[block] != 0)
        )

    # -- writing ---------------------------------------------------------------------------

    def allocate(self, offset: int, end: int) -> bool:
        """Have the disk give room for [offset, end), which is counted as used then, whether it is
        written to or not; False if it has none to give now.

        ext4 takes half as long to write to what is allocated: for what is not it reserves and
        notes each page on its own.
        """
        shared = self.shared
        if not shared.allocates:
            return False
        with self.pinned():
            if self.present(offset, end - offset):
                return False  # others have written it: the file's mtime is to stay
            try:
                with self._growing(shared.ledger.on_disk(end - offset)):
                    fallocate(self.fd, KEEP_SIZE, offset, end - offset)
            except CacheFull:
                return False
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    shared.allocates = False
                return False
        return True

    @contextmanager
    def _growing(self, most: int, wait: float = 0.0) -> Iterator[None]:
        """Room for ``most`` bytes that the file may grow by. Raises CacheFull.

        Where room is allocated the file may have some already, of a download that ended early: what
        it has not grown by is given back, and of several at once each takes of the growth what it
        may. Other file systems tell of it late (ZFS), or take some ahead. When another file has the
        name, whoever put it there has freed what there was; the rest is freed with this object, but
        for what came before a count of all, which does not find it.
        """
        shared, measured = self.shared, self.shared.measures
        if measured:  # for the tree of the extents, and a cluster of which this is the end
            most += 2 * shared.ledger.unit
        shared.ledger.reserve(most, wait)
        with self._counting:
            before = os.fstat(self.fd)
            if not self._growers:
                self._counted = before.st_blocks * 512
            self._growers += 1
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._counting:
                self._growers -= 1
                if measured:
                    grown = max(0, os.fstat(self.fd).st_blocks * 512 - self._counted)
                    taken = min(most, grown)
                    self._counted += taken
                else:
                    taken = 0 if failed else most
                if not before.st_nlink:
                    if self._nameless_since != (since := shared.ledger.counts):
                        self._nameless, self._nameless_since = 0, since
                    self._nameless += taken
            if taken < most:
                shared.ledger.release(most - taken)

    def write_block(
        self,
        offset: int,
        data: bytes | memoryview,
        wait: float,
        *,
        direct: bool = False,
        allocated: bool = False,
    ) -> None:
        """One block, or several that follow each other: one reservation, one write. ``direct``:
        around the page cache if possible; ``data`` is page-aligned then. ``allocated``: see
        :meth:`allocate`."""
        first, rest = divmod(offset, BLOCK)
        end = offset + len(data)
        if rest or not len(data) or end > self.size or (end % BLOCK and end != self.size):
            raise ValueError(f"{len(data)} bytes at {offset} are not a block of {self.size}")
        shared = self.shared
        with self.pinned():
            wanted = [b for b in range(first, -(-end // BLOCK)) if not self._has(b)]
            if self._complete or not wanted:
                return
            blocks = self.blocks
            if blocks is None:
                raise CacheError("a whole segment must be verified before it is written to")
            fresh = 0 if allocated else sum(1 for block in wanted if not blocks.get(block))
            on_disk = shared.ledger.on_disk
            reserved = min(fresh * on_disk(BLOCK), on_disk(len(data)))
            view = memoryview(data)
            try:
                with self._growing(reserved, wait) if reserved else nullcontext():
                    self._write(offset, view, direct)
            except OSError as error:
                raise translated(error, "writing to the cache") from error
            for block in wanted:
                start = block * BLOCK - offset
                blocks.set(block, block_hash(view[start : start + BLOCK]))
                if not self.trusted:
                    self.checked[block] = 1
            _ = self.complete

    def _write(self, offset: int, view: memoryview, direct: bool) -> None:
        began, cpu = time.monotonic(), time.thread_time()
        direct = direct and self._write_direct(offset, view)
        if not direct:
            self._write_cached(offset, view)
        if len(view) == PIECE:
            spent = time.thread_time() - cpu
            self.shared.direct.note(direct, spent, time.monotonic() - began)

    def _write_direct(self, offset: int, data: memoryview) -> bool:
        """False if that could not be done: nothing, or a part of it, is written then."""
        if len(data) % ALIGNMENT:
            return False
        try:
            with self.shared.lock:
                if self._direct_fd < 0:
                    # The flag is of an open file, and what reads ``fd`` is to use the page cache.
                    path = f"/proc/self/fd/{self.fd}"
                    self._direct_fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            return os.pwrite(self._direct_fd, data, offset) == len(data)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.shared.direct.impossible()
            return False

    def _write_cached(self, offset: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written
