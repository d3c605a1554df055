"""The node-wide cache as one process sees it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from csi_slayer.cache.adopt import adopt
from csi_slayer.cache.bypass import Bypass
from csi_slayer.cache.conflicts import Conflicts
from csi_slayer.cache.direct import Direct, DirectMode
from csi_slayer.cache.events import CacheEvents
from csi_slayer.cache.files import make_segment, open_segment, write_whole
from csi_slayer.cache.filesystem import EXT4, MEASURING, file_system
from csi_slayer.cache.header import Header, read_header
from csi_slayer.cache.key import SegmentKey
from csi_slayer.cache.layout import SMALL, Layout
from csi_slayer.cache.ledger import Ledger
from csi_slayer.cache.marks import Marks
from csi_slayer.cache.opened import OpenSegment
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.rekey import rekey
from csi_slayer.cache.segment import ALLOCATED, Segment
from csi_slayer.cache.shared import Shared
from csi_slayer.cache.staging import Staging
from csi_slayer.errors import CacheError, CacheFull

_ALLOCATES = 64 * ALLOCATED
"""Capacity (bytes) below which no room is allocated for what may not come."""


class Usage(NamedTuple):
    """Bytes, and a number of segments, as of the last time that a governor looked; ``free``: what
    the file system has free now."""

    used: int
    staged: int
    capacity: int
    free: int
    segments: int


class Cache:
    """Finds, makes and takes over segments. Thread-safe; each call takes microseconds except
    where it is said to belong in a thread.

    The file system is the truth: nothing is remembered of segments that are not open, and any
    number of processes may use the same ``root`` without talking to each other. ``capacity`` and
    ``min_free`` (left free on the file system) in bytes; one process must run a
    :class:`csi_slayer.cache.governor.Governor` for anything to be evicted. Create it after a
    fork, not before. ``direct``: whether what is fetched goes around the page cache. Raises
    CacheError if ``root`` cannot be used.
    """

    def __init__(
        self, root: Path, capacity: int, min_free: int = 0, *, direct: DirectMode = "auto"
    ) -> None:
        layout = Layout(root)
        try:
            ledger = Ledger(layout, capacity, min_free)
            marks = Marks(layout)
            kind = file_system(str(root))
        except OSError as error:
            raise translated(error, f"cache directory {root}") from error
        self.shared = Shared(
            layout, ledger, marks, CacheEvents(), Direct(direct),
            allocates=kind == EXT4 and capacity >= _ALLOCATES, measures=kind in MEASURING,
        )  # fmt: skip
        self.capacity = capacity
        self._bypass = Bypass(self.shared.events)

    @property
    def memory_is_dear(self) -> bool:
        """Whether what is read once is better not kept in the page cache now."""
        return self.shared.direct.dear

    @property
    def events(self) -> CacheEvents:
        return self.shared.events

    # -- segments --------------------------------------------------------------------------

    def find(self, key: SegmentKey, size: int) -> Segment | None:
        """Open the segment of an object version that has ``size`` bytes; None if there is none.

        It may be partial, and must be verified first if it ``needs_verify``.
        """
        shared = self.shared
        with shared.lock:
            opened = shared.opened.get(key.hex)
            if opened is None or opened.size != size:
                opened = open_segment(shared, key, size)
                if opened is None:
                    return None
                shared.opened[key.hex] = opened
            opened.refs += 1
        shared.marks.touch(key.hex)
        return Segment(opened)

    def open_named(self, name: str) -> OpenSegment | None:
        """For maintenance: the segment in the data file ``name``, which does not count as used.
        The caller has to ``unpin`` it."""
        shared = self.shared
        with shared.lock:
            opened = shared.opened.get(name)
            if opened is None:
                header = read_header(shared.layout.data(name), shared.layout.xattr)
                opened = open_segment(
                    shared, SegmentKey(name), header.size if header is not None else 0
                )
                if opened is None:
                    return None
                shared.opened[name] = opened
            opened.refs += 1
        return opened

    def contains(self, key: SegmentKey) -> bool:
        """Whether there is a segment, perhaps a partial one."""
        return key.hex in self.shared.opened or os.path.exists(self.shared.layout.data(key.hex))

    def create(self, key: SegmentKey, size: int) -> Segment:
        """Open the segment, or make one in which nothing is present. Raises CacheFull."""
        if found := self.find(key, size):
            return found
        shared = self.shared
        if size > self.capacity:
            raise CacheFull(f"{size} bytes never fit a cache of {self.capacity}")
        with shared.lock:
            opened = shared.opened.get(key.hex)
            if opened is None or opened.size != size:
                try:
                    opened = shared.opened[key.hex] = make_segment(shared, key, size)
                except OSError as error:
                    raise translated(error, "creating a segment") from error
            opened.refs += 1
        return Segment(opened)

    def rekey(self, old: SegmentKey, new: SegmentKey) -> bool:
        """The segment ``old`` is that of ``new`` from now on, whose bytes are the same.

        False, and nothing has changed, if there is none, somebody has it open, or there is one of
        the new name already. Raises CacheError.
        """
        return rekey(self.shared, old, new)

    def store_small(self, key: SegmentKey, data: bytes | memoryview) -> bool:
        """Keep a whole object of at most SMALL bytes; False if the cache has no room for it, or
        fails."""
        fd, _header = self._store(key, data)
        if fd < 0:
            return False
        os.close(fd)
        return True

    def put_small(self, key: SegmentKey, data: bytes | memoryview) -> Segment | None:
        """Like :meth:`store_small`, and open it; None if the cache has no room, or fails."""
        fd, header = self._store(key, data)
        if fd < 0 or header is None:
            return None
        shared = self.shared
        with shared.lock:
            opened = shared.opened.get(key.hex)
            if opened is not None and opened.size == len(data):
                os.close(fd)
            else:
                opened = OpenSegment(shared, key.hex, fd, header, os.fstat(fd), None)
                shared.opened[key.hex] = opened
            opened.refs += 1
        return Segment(opened)

    def adopt(
        self, key: SegmentKey, stage_path: Path | str, size: int, fd: int | None = None
    ) -> None:
        """Make a staged file the complete segment of the version that it was uploaded as.

        The file has ``size`` bytes and nobody writes to it any more. One rename does it: after a
        crash the file is either still staged, and may be adopted again, or a segment. If there is
        a complete segment already, the staged file is just removed. Reads the whole file: in a
        thread if larger than SMALL. ``fd`` is a descriptor of it if the caller has one.
        Raises CacheError, and the file stays staged.
        """
        adopt(self.shared, key, str(stage_path), size, fd)

    def bypass(self, error: CacheError) -> None:
        """Say that bytes are handed on without being kept, and why: counted, and logged now and
        then if it is no lack of room."""
        self._bypass.note(error)

    def _store(self, key: SegmentKey, data: bytes | memoryview) -> tuple[int, Header | None]:
        """Write a small segment; its locked descriptor, -1 if it cannot be kept."""
        if len(data) > SMALL:
            raise ValueError(f"{len(data)} bytes are no small segment")
        shared = self.shared
        room = shared.ledger.on_disk(len(data))
        try:
            shared.ledger.reserve(room)
            try:
                return write_whole(shared, key, data)
            except OSError as error:
                shared.ledger.release(room)
                raise translated(error, "storing a small segment") from error
        except CacheError as error:
            self.bypass(error)
            return -1, None

    # -- the rest --------------------------------------------------------------------------

    def staging(self, volume: str) -> Staging:
        """The staged files of a volume."""
        return Staging(self.shared.layout, self.shared.ledger, volume)

    def conflicts(self, volume: str) -> Conflicts:
        """Where a volume's staged files go that lost a race."""
        return Conflicts(self.shared.layout, volume)

    def check_names(self) -> None:
        """Raises CacheFull if a catalog is not to learn more names: the disk has hardly what the
        cache leaves free, and staged files need it more. CacheError."""
        self.shared.ledger.check_names()

    def usage(self) -> Usage:
        ledger = self.shared.ledger
        file = ledger.file
        return Usage(file.used, file.staged, self.capacity, ledger.free_space(), file.segments)

    def close(self) -> None:
        """Give back what was reserved; all segments must have been closed before."""
        self.shared.ledger.close()
        self.shared.marks.close()
