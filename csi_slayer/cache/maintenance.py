"""What an administrator may ask of a whole cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from csi_slayer.cache.cache import Cache
from csi_slayer.cache.governor import Evicted
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.sweep import evict, names
from csi_slayer.cache.verify import verify

Progress = Callable[["Verified"], None]


@dataclass(slots=True)
class Verified:
    """What :func:`verify_all` has looked at so far; ``size`` in bytes of present blocks.

    ``bad_blocks`` have been dropped; ``bad_segments`` had some, or a damaged header or map.
    """

    segments: int = 0
    size: int = 0
    bad_blocks: int = 0
    bad_segments: int = 0


def verify_all(cache: Cache, progress: Progress | None = None) -> Verified:
    """Read every cached byte and compare it with its checksum; what differs is dropped.

    Blocks for as long as the disk takes: in a thread. ``progress`` is called after each segment.
    Raises CacheError if the cache cannot be read at all.
    """
    result = Verified()
    try:
        for name in names(cache.shared.layout):
            _verify(cache, name, result)
            if progress is not None:
                progress(result)
    except OSError as error:
        raise translated(error, "verifying the cache") from error
    return result


def _verify(cache: Cache, name: str, result: Verified) -> None:
    before = cache.events.corrupt_segments.value
    opened = cache.open_named(name)
    if opened is None:
        result.bad_segments += cache.events.corrupt_segments.value > before
        return
    try:
        size = opened.present_bytes
        bad = verify(opened, 0, opened.size, again=True)
        result.segments += 1
        result.size += size
        result.bad_blocks += bad
        result.bad_segments += bad > 0
    finally:
        opened.unpin()


def evict_all(cache: Cache) -> Evicted:
    """Remove every segment that nobody has open. Blocks: in a thread. Raises CacheError."""
    count = size = 0
    try:
        for name in names(cache.shared.layout):
            freed = evict(cache.shared.layout, name)
            if freed:
                count += 1
                size += freed
                cache.shared.ledger.freed(freed)
    except OSError as error:
        raise translated(error, "emptying the cache") from error
    return Evicted(count, size)
