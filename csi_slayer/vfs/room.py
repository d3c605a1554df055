"""The room of files that grow, within the volume's quota."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from csi_slayer.errors import FsError
from csi_slayer.vfs.base import Base


class Room(Base):
    """What calls that make files grow have in common."""

    def check_quota(self, growth: int) -> None:
        """Raises ENOSPC if ``growth`` more bytes do not fit the volume's quota."""
        quota = self.live.quota
        if quota is not None and growth > 0 and self.catalog.used_bytes + growth > quota:
            raise FsError(errno.ENOSPC, "the volume's quota is used up")

    async def reserve(self, ino: int, end: int) -> None:
        """Count a file that is about to grow to ``end`` bytes: others may want the room meanwhile.
        Whoever does not make it grow counts it anew. Raises ENOSPC."""
        if self.live.quota is not None:
            inode = await self.catalog.get(ino)
            if end > inode.size:
                self.check_quota(end - inode.size)
                await self.catalog.update(ino, size=end)

    async def not_grown(self, ino: int) -> None:
        """What was reserved is not needed, or not all: the file is as long as it is."""
        inode = await self.catalog.find(ino)
        if inode is not None:
            size = self.opened.counted(ino, self.attr(inode).size)
            await self.catalog.update(ino, size=size)

    @asynccontextmanager
    async def growing(self, ino: int, end: int) -> AsyncGenerator[None]:
        """For calls that take long: :meth:`reserve`, and whoever counts the file anew meanwhile,
        since it is uploaded or synced, counts what it is about to have. It is not let go of."""
        async with self.opened.held(ino) as record:
            await self.reserve(ino, end)
            record.growing.append(end)
            try:
                yield
            except BaseException:
                record.growing.remove(end)
                await self.not_grown(ino)
                raise
            record.growing.remove(end)
