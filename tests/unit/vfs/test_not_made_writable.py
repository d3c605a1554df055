"""An open for writing that fails half way: who reads the file goes on reading it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import Cache
from csi_slayer.catalog import ROOT
from csi_slayer.content.clean import CleanFile
from csi_slayer.errors import CacheFull
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

BODY = os.urandom(3 << 20)


@pytest.mark.parametrize("how", ["in part", "copied", "taken over"])
def test_who_reads_it_meanwhile_reads_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    hydrate_max = 0 if how == "in part" else 1 << 30
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=hydrate_max)
    volume.bucket.objects["f"] = Blob(BODY, '"one"', 10**18, {})

    async def full(*_args: Any, **_values: Any) -> None:
        raise CacheFull("the disk of the catalog is full")

    fs = volume.fs
    ino = volume.run(fs.lookup(volume.request(), ROOT, b"f")).attr.ino
    reader = volume.run(fs.open(volume.request(), ino, os.O_RDONLY))
    assert volume.read(ino, reader, 0, 1000) == BODY[:1000]
    record = fs.opened.get(ino)
    assert record is not None and isinstance(record.file, CleanFile)
    other = Cache(tmp_path / "cache", 1 << 30)
    segment = None
    if how == "copied":  # another worker has the segment open
        assert volume.run(record.file.fill())
        segment = other.find(fs.content.segment_key(record.file.source), len(BODY))
        assert segment is not None
    with monkeypatch.context() as patch:
        patch.setattr(volume.catalog, "update", full)
        with pytest.raises(CacheFull) as failed:
            volume.run(fs.open(volume.request(), ino, os.O_RDWR))
    assert failed.value.errno == errno.ENOSPC
    assert list(fs.content.staging.list()) == []

    async def read(offset: int) -> bytes:
        """As the engine does: at once, and from the descriptor."""
        found = await fs.read(volume.request(), ino, reader.fh, offset, 1000)
        return bytes(found) if isinstance(found, bytes) else os.pread(found.fd, 1000, offset)

    for offset in (0, 1 << 20):
        assert volume.run(read(offset)) == BODY[offset : offset + 1000]
    if segment is not None:
        segment.close()
    other.close()
    volume.run(fs.release(volume.request(), ino, reader.fh))
    volume.stop()
