"""The catalog of a volume is gone: what was staged has no name any more, but its bytes stay."""

from __future__ import annotations

import json
import os
from pathlib import Path

from csi_slayer.catalog import ROOT
from tests.unit.vfs.harness import Volume


def test_staged_bytes_are_kept_when_the_catalog_is_gone(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability="writeback")
    fs = volume.fs
    for name, data in ((b"f", b"nowhere else"), (b"empty", b"")):
        entry, opened = volume.run(fs.create(volume.request(), ROOT, name, 0o644, os.O_RDWR))
        assert entry.attr is not None
        if data:
            volume.write(entry.attr.ino, opened, 0, data)
    volume.die()
    for path in tmp_path.glob("catalog.db*"):
        path.unlink()
    volume.start(taken_over=False)
    (kept,) = volume.fs.content.conflicts.list()
    assert kept.read_bytes() == b"nowhere else" and "unnamed" in kept.name
    assert json.loads(kept.with_name(kept.name + ".json").read_text())["key"] is None
    assert not list(volume.fs.content.staging.list())
    volume.stop()
