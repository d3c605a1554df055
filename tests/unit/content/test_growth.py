"""Parts that are sent while a file grows."""

from __future__ import annotations

import os
from pathlib import Path

from csi_slayer.catalog import ROOT
from tests.unit.vfs.harness import Volume

PART = 64 << 10


def test_what_was_sent_as_a_whole_is_not_sent_ahead(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, part_size=PART)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"f", 0o644, os.O_RDWR))
    assert entry.attr is not None
    ino = entry.attr.ino
    volume.write(ino, opened, 0, b"1")
    volume.turn(1000)  # it is seen to be small
    volume.write(ino, opened, 0, bytes(5 * PART))
    volume.run(fs.flush(volume.request(), ino, opened.fh))
    assert volume.objects() == {"f": bytes(5 * PART)}
    volume.turn(1000)
    assert not volume.bucket.uploads, "it is seen to have grown only after the whole was sent"
    volume.run(fs.release(volume.request(), ino, opened.fh))
    volume.turn(1000)
    assert not volume.bucket.uploads
    volume.stop()
