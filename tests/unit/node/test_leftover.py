"""Whether a volume that nobody serves has something that the store lacks."""

from __future__ import annotations

import os
from pathlib import Path

from csi_slayer.catalog import ROOT
from csi_slayer.node import leftover
from csi_slayer.node.records import Places
from tests.unit.vfs.harness import Volume

NAME = "v"


def _unsaved(volume: Volume) -> int:
    return leftover.unsaved(volume.root, volume.fs.content.staging.directory)


def test_a_volume_never_mounted_has_nothing_unsaved(tmp_path: Path) -> None:
    assert leftover.unsaved(tmp_path, tmp_path) == 0


def test_a_damaged_catalog_may_have_anything(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"no database" * 1000)
    assert leftover.unsaved(tmp_path, tmp_path) == -1


def test_what_was_written_to_an_open_file_is_unsaved(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"f", 0o644, os.O_RDWR))
    assert entry.attr is not None
    ino = entry.attr.ino
    volume.write(ino, opened, 0, b"one")
    assert _unsaved(volume) > 0
    volume.run(fs.flush(volume.request(), ino, opened.fh))
    volume.turn(20)
    assert volume.objects() == {"f": b"one"}
    assert _unsaved(volume) == 0, "staged still, but as the store has it"
    volume.write(ino, opened, 0, b"two")  # past the worker, which knows nothing of it
    volume.die()
    assert _unsaved(volume) > 0


def test_the_state_goes_with_all_staged_copies(tmp_path: Path) -> None:
    places = Places(tmp_path / "run", tmp_path / "cache")
    places.state(NAME).mkdir(parents=True)
    staging = places.staging(NAME)
    staging.mkdir(parents=True)
    (staging / "0123").write_bytes(b"as the store has it")
    leftover.remove_state(places, NAME)
    assert not staging.exists() and not places.state(NAME).exists()
