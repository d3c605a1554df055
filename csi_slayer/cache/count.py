"""What a cache holds at this moment, counted without changing anything in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from csi_slayer.cache.layout import Layout
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.staging import disk_usage
from csi_slayer.cache.sweep import is_segment

_OFTEN = 1024


@dataclass(slots=True)
class Counted:
    """``used``, ``staged`` and ``conflicts`` (files that lost a race, kept for a person) in bytes
    on the disk. ``complete`` False: the time was over, and there is more."""

    segments: int = 0
    used: int = 0
    staged: int = 0
    conflicts: int = 0
    complete: bool = False


def count(
    layout: Layout, seconds: float, progress: Callable[[Counted], None] = lambda _: None
) -> Counted:
    """Look at every file for at most so many seconds; what comes and goes meanwhile may be missed.

    Runs along the disk: in a thread. ``progress`` is called now and then. Raises CacheError.
    """
    found = Counted()
    deadline = time.monotonic() + seconds
    try:
        # What is only here and nowhere else counts first.
        found.staged = disk_usage(layout.staged)
        found.conflicts = disk_usage(layout.kept)
        for shard in layout.shards():
            with suppress(FileNotFoundError), os.scandir(shard) as entries:
                for number, entry in enumerate(entries):
                    if number % _OFTEN == 0:
                        progress(found)
                        if time.monotonic() >= deadline:
                            return found
                    with suppress(FileNotFoundError):
                        found.used += entry.stat(follow_symlinks=False).st_blocks * 512
                        found.segments += is_segment(entry.name)
    except OSError as error:
        raise translated(error, "counting what is cached") from error
    found.complete = True
    return found
