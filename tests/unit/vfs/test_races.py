"""Who loses a race for a key: what was written here is kept, and the store's version is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import PreconditionFailed
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import MemoryStore


def test_a_lost_race_is_decided_as_soon_as_the_file_is_closed(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"f", 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, opened, 0, b"ours")
    volume.run(MemoryStore(volume.bucket).put("f", b"theirs"))
    with pytest.raises(PreconditionFailed):
        volume.run(fs.flush(volume.request(), entry.attr.ino, opened.fh))
    assert volume.events.conflicts == 0, "it is still open"
    volume.run(fs.release(volume.request(), entry.attr.ino, opened.fh))
    volume.turn(30)
    assert volume.events.conflicts == 1
    (kept,) = (p for p in (tmp_path / "cache" / "conflicts").rglob("*-f-*") if not p.suffix)
    assert kept.read_bytes() == b"ours"
    again = volume.run(fs.open(volume.request(), entry.attr.ino, os.O_RDONLY))
    assert volume.read(entry.attr.ino, again, 0, 99) == b"theirs"
    volume.run(fs.release(volume.request(), entry.attr.ino, again.fh))
    volume.stop()
