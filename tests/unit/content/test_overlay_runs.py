"""The missing blocks of a changed large object come in few reads."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.overlay_map import BLOCK
from csi_slayer.content.small import Source


class Counted:
    """An object that tells what was read of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.source = Source("key", "etag", len(content))
        self.size = len(content)
        self.reads: list[tuple[int, int]] = []

    async def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        await asyncio.sleep(0)
        return self.content[offset : offset + size]

    async def close(self) -> None:
        """Nothing is open."""


def test_a_part_of_an_upload_is_not_read_block_by_block(tmp_path: Path) -> None:
    """Where the cache has no room each was a request, and one more that found no room."""
    content = os.urandom(20 * BLOCK + 5)
    base: Any = Counted(content)

    async def run() -> bytes:
        fd = os.open(tmp_path / "stage", os.O_RDWR | os.O_CREAT, 0o600)
        file = OverlayFile("stage", str(tmp_path / "stage"), fd, base)
        await file.write(3 * BLOCK, memoryview(bytes(BLOCK)))
        # Two at once, as parts are: whoever comes second finds what the first has brought.
        await asyncio.gather(file.bring_all(), file.bring_range(10 * BLOCK, 2 * BLOCK))
        result = os.pread(fd, len(content), 0)
        assert file.is_whole
        await file.close()
        return result

    assert asyncio.run(run()) == content[: 3 * BLOCK] + bytes(BLOCK) + content[4 * BLOCK :]
    assert len(base.reads) <= 5
    assert max(size for _, size in base.reads) == 8 * BLOCK
