"""What callers hold of an open segment."""

from __future__ import annotations

from collections.abc import Callable

from csi_slayer.cache.detach import detach
from csi_slayer.cache.fresh import PIECE, Claimed, Piece
from csi_slayer.cache.opened import OpenSegment
from csi_slayer.cache.resident import resident
from csi_slayer.cache.verify import verify

HEAD = 64 << 20
"""Bytes of a segment that tell whether it is in the page cache: 16,384 pages at most."""

WAIT = 1.0
"""Seconds that a transfer waits for the governor to make room before it gives up."""

ALLOCATED = 8 * PIECE
"""Bytes of a download that room is allocated for at once. Each transfer whose reader goes away has
allocated up to so many in vain; a fourth of it was as fast, but left a thousand extents in each
gigabyte, that the disk reads as many pieces of."""


class Segment:
    """A local, possibly partial copy of one file version.

    ``fd`` is open for reading and writing, for passthrough and for reads of what is present; it
    is -1 after :meth:`close`. ``size`` in bytes. Methods may be called from any thread.
    """

    __slots__ = ("_opened", "_owner", "fd", "size")

    def __init__(self, opened: OpenSegment) -> None:
        """Takes over one reference that has been counted already."""
        self._opened = opened
        self._owner = 0
        self.fd = opened.fd
        self.size = opened.size

    @property
    def complete(self) -> bool:
        """Whether all bytes are present and trusted, so that the kernel may serve the file."""
        return self._opened.complete

    @property
    def needs_verify(self) -> bool:
        """Whether something must be verified before it is used: the machine was started anew, or
        somebody else changed the file. What is not verified does not count as present."""
        return self._opened.needs_verify

    def present(self, offset: int, length: int) -> bool:
        """Whether these bytes can be read from ``fd``."""
        return self._opened.present(offset, length)

    def missing(self, offset: int, length: int) -> list[tuple[int, int]]:
        """What must be fetched to have these bytes, as (offset, length): whole blocks, merged,
        the last one cut at the end of the segment."""
        return self._opened.missing(offset, length)

    @property
    def present_bytes(self) -> int:
        """How much of it there is, trusted or not."""
        return self._opened.present_bytes

    @property
    def is_in_memory(self) -> bool:
        """Whether the page cache has what there is of the first HEAD bytes, most of it at least,
        which leaves it first; True if the kernel does not say."""
        length = min(HEAD, self.size)
        there = length - sum(missing for _, missing in self.missing(0, length))
        found = resident(self.fd, length)
        return found is None or found >= there - there // 8

    @property
    def has_no_room(self) -> bool:
        """Whether a transfer waited in vain for room in the cache just now."""
        return self._opened.shared.ledger.is_full

    def verify(self, offset: int = 0, length: int | None = None) -> int:
        """Check unverified blocks against their checksums; bad and unreadable ones become absent.

        Returns how many were bad. Reads the disk: to be run in a thread. Raises CacheError.
        """
        end = self.size if length is None else offset + length
        return verify(self._opened, offset, end - offset, again=False)

    def write_block(self, offset: int, data: bytes | memoryview) -> None:
        """Store one block or several (BLOCK bytes each, the file's last one less), at a multiple
        of BLOCK.

        Raises CacheFull if there is no room; the block stays absent then.
        """
        self._opened.write_block(offset, data, 0.0)

    def sink(
        self,
        on_piece: Callable[[int, int], None],
        *,
        end: int,
        base: int = 0,
        cached: bool = False,
    ) -> SegmentSink:
        """For :meth:`csi_slayer.store.base.ObjectStore.fetch`: writes a download into the segment.

        ``end`` is where in the segment the download ends, ``base`` the object offset of the
        segment's first byte, ``cached`` whether it is read from the page cache next.
        ``on_piece(offset, length)`` is called in the transfer's thread with the place in the
        segment of each piece that has become available, and again of one that has become present.
        """
        if self._owner == 0:
            self._owner = self._opened.shared.fresh.new_owner()
        return SegmentSink(self._opened, self._owner, on_piece, end, base, cached)

    def claim(self, offset: int, end: int) -> Claimed | None:
        """The bytes [offset, end) from memory, if that has all of them. Once only."""
        return self._opened.shared.fresh.claim(self._owner, offset, end) if self._owner else None

    def available(self, offset: int, end: int) -> bool:
        """Whether the bytes [offset, end) are present, or in memory for :meth:`claim`."""
        opened = self._opened
        if opened.present(offset, end - offset):
            return True
        return self._owner != 0 and opened.shared.fresh.has(self._owner, offset, end)

    def unclaimed(self) -> None:
        """Nobody will come for what was fetched: keep it on the disk alone."""
        if self._owner:
            self._opened.shared.fresh.forget(self._owner)

    def detach(self, stage_path: str) -> int | None:
        """Turn the complete segment into the file ``stage_path``, without copying, for a writer.

        Returns its descriptor, which is the caller's from then on, and closes this object; None,
        and nothing has changed, if the segment is in use elsewhere or incomplete. Raises
        CacheError, CacheFull, TurnTaken.
        """
        fd = detach(self._opened, stage_path)
        if fd is not None:
            self.fd = -1
        return fd

    def close(self) -> None:
        """Let go of the segment; may be called again."""
        if self.fd >= 0:
            self.fd = -1
            self.unclaimed()
            self._opened.unpin()


class SegmentSink:
    """A :class:`csi_slayer.store.base.RangeSink` that fills a segment."""

    piece = PIECE

    def __init__(
        self,
        opened: OpenSegment,
        owner: int,
        on_piece: Callable[[int, int], None],
        end: int,
        base: int,
        cached: bool,
    ) -> None:
        self._opened = opened
        self._owner = owner
        self._piece: Piece | None = None
        self._on_piece = on_piece
        self._end = end
        self._base = base
        self._cached = cached
        self._allocated = range(0)

    def room(self, size: int) -> memoryview | None:
        """Memory that goes to the disk as it is."""
        shared = self._opened.shared
        around = shared.direct.wanted(cached=self._cached)
        self._piece = piece = shared.fresh.take() if around else None
        return None if piece is None else piece.memory[:size]

    def write(self, offset: int, data: memoryview) -> None:
        """Raises CacheFull if no room can be made, CacheError if the segment is closed."""
        opened, offset, piece = self._opened, offset - self._base, self._piece
        if piece is not None:
            self._piece = None
            opened.shared.fresh.keep(self._owner, offset, piece, len(data))
            self._on_piece(offset, len(data))
        allocated = piece is None and self._allocate(offset, offset + len(data))
        opened.write_block(offset, data, WAIT, direct=piece is not None, allocated=allocated)
        self._on_piece(offset, len(data))

    def _allocate(self, offset: int, end: int) -> bool:
        """Whether the disk has room for these bytes that is counted already."""
        if end > self._allocated.stop and self._end - offset >= ALLOCATED:
            if self._opened.allocate(offset, offset + ALLOCATED):
                self._allocated = range(offset, offset + ALLOCATED)
        return self._allocated.start <= offset and end <= self._allocated.stop
