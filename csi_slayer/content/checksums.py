"""Checksums of staged files, by which what was sent is compared with what is there."""

from __future__ import annotations

import os

import xxhash

from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.staged import os_errors
from csi_slayer.store.source import reading

PIECE = 1 << 20
"""Bytes that are read at once."""


def checksum(fd: int, offset: int, length: int) -> int:
    """xxh3 of a file's range; blocks, so call it in a thread for more than a few MiB. Raises
    SourceUnreadable."""
    digest = xxhash.xxh3_64()
    end = offset + length
    while offset < end:
        with reading():
            data = os.pread(fd, min(PIECE, end - offset), offset)
        if not data:
            break
        digest.update(data)
        offset += len(data)
    return digest.intdigest()


class Checksums:
    """:func:`checksum` in a thread of those that wait for writes, as reading does on XFS."""

    def __init__(self, opened: OpenInodes) -> None:
        self._opened = opened
        self.made = 0
        """How many were: that something gets on."""

    async def of_range(self, fd: int, offset: int, length: int) -> int:
        """That of a file's range. Raises FsError, SourceUnreadable."""
        with os_errors():
            value = await self._opened.patient.run(lambda own: checksum(own, offset, length), fd)
        self.made += 1
        return value

    async def of_all(self, fd: int, size: int, part: int) -> int:
        """One of a whole file, part by part: that it gets on is seen, and it can be cancelled.
        Raises like :meth:`of_range`."""
        digest = xxhash.xxh3_64()
        for offset in range(0, size, part):
            value = await self.of_range(fd, offset, min(part, size - offset))
            digest.update(value.to_bytes(8, "little"))
        return digest.intdigest()
