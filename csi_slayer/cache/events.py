"""What the cache counts."""

from __future__ import annotations

from csi_slayer.observability.instruments import Counter


class CacheEvents:
    """Counters of one process; bytes where the name says so.

    ``corrupt_blocks``: blocks whose checksum differed and that were dropped.
    ``corrupt_segments``: segments dropped because header, map or a small file was damaged.
    ``evicted_segments``, ``evicted_bytes``: removed to make room (by the process that governs).
    ``bypassed``: times there was no room, or the disk failed, so that bytes were handed on without
    being kept.
    """

    __slots__ = (
        "bypassed",
        "corrupt_blocks",
        "corrupt_segments",
        "evicted_bytes",
        "evicted_segments",
    )

    def __init__(self) -> None:
        self.corrupt_blocks = Counter()
        self.corrupt_segments = Counter()
        self.evicted_segments = Counter()
        self.evicted_bytes = Counter()
        self.bypassed = Counter()
