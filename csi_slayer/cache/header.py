"""The header of a segment, kept in an extended attribute of its data file.

One call reads it with the open file at hand, and it goes where the file goes: there is no second
file that could be lost or swapped.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import cache
from pathlib import Path
from typing import NamedTuple

import xxhash

from csi_slayer.cache.key import SegmentKey
from csi_slayer.cache.oserrors import UNREADABLE
from csi_slayer.errors import CacheError

WHOLE, MAPPED = 1, 2
"""Kinds of segments: present as a whole, or as its block map says."""

_STRUCT = struct.Struct("<4sBB2xQQqQ16s")
_MAGIC = b"SLYR"
_VERSION = 1


class Header(NamedTuple):
    """``check``: xxh3_64 of the whole (WHOLE) or the number that the map repeats (MAPPED).

    ``generation``: the boot during which the bytes were last known good. ``stamp``: the data
    file's mtime then, nanoseconds, negative before 1970. Both are of use for WHOLE only; a map has
    its own. ``key`` is what the file is a segment of: a descriptor that was opened just before the
    file became something else is found out by it.
    """

    kind: int
    size: int
    generation: int
    stamp: int
    check: int
    key: bytes

    def write(self, fd: int, name: str) -> None:
        """Attach to an open file; raises OSError."""
        os.setxattr(
            fd,
            name,
            _STRUCT.pack(
                _MAGIC,
                _VERSION,
                self.kind,
                self.size,
                self.generation,
                self.stamp,
                self.check,
                self.key,
            ),
        )

    def fits(self, key: SegmentKey, size: int, stat: os.stat_result) -> bool:
        """Whether the file with this header and ``stat`` is that segment."""
        return self.size == size == stat.st_size and self.key == key.raw


def read_header(file: int | str, name: str) -> Header | None:
    """The header of a data file (descriptor or path); None if it has none that we understand, or
    that can be read. Raises CacheError."""
    try:
        data = os.getxattr(file, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOENT) or error.errno in UNREADABLE:
            return None
        raise CacheError(f"cannot read a segment's header: {error.strerror}") from error
    if len(data) != _STRUCT.size:
        return None
    magic, version, kind, size, generation, stamp, check, key = _STRUCT.unpack(data)
    if magic != _MAGIC or version != _VERSION or kind not in (WHOLE, MAPPED):
        return None
    return Header(kind, size, generation, stamp, check, key)


@cache
def boot_generation() -> int:
    """A number of this boot of the machine: after another boot nothing unwritten can be trusted."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return xxhash.xxh3_64_intdigest(boot) or 1
