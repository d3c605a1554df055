"""Staged files are gone (a power loss, a person): names show what the store has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import rest
from tests.unit.vfs.harness import Volume

HOUR = 3600.0


def _write(volume: Volume, name: bytes, data: bytes) -> None:
    flags = os.O_RDWR | os.O_CREAT
    fs = volume.fs
    found = volume.run(fs.lookup(volume.request(), ROOT, name))
    if found.attr is None:
        found, opened = volume.run(fs.create(volume.request(), ROOT, name, 0o644, flags))
    else:
        opened = volume.run(fs.open(volume.request(), found.attr.ino, os.O_RDWR))
    assert found.attr is not None
    volume.write(found.attr.ino, opened, 0, data)
    volume.run(fs.flush(volume.request(), found.attr.ino, opened.fh))
    volume.run(fs.release(volume.request(), found.attr.ino, opened.fh))


def _read(volume: Volume, name: bytes) -> bytes:
    found = volume.run(volume.fs.lookup(volume.request(), ROOT, name))
    assert found.attr is not None
    opened = volume.run(volume.fs.open(volume.request(), found.attr.ino, os.O_RDONLY))
    data = volume.read(found.attr.ino, opened, 0, 100)
    volume.run(volume.fs.release(volume.request(), found.attr.ino, opened.fh))
    assert found.attr.size == len(data)
    return data


def test_what_the_store_has_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0, durability="writeback")
    _write(volume, b"old", b"stored")
    assert volume.run(volume.fs.drain(2.0)) == 0
    monkeypatch.setattr(rest, "WRITEBACK_REST", HOUR)
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", HOUR)
    _write(volume, b"old", b"longer than what is stored")
    _write(volume, b"new", b"never stored")
    volume.die()
    assert volume.objects() == {"old": b"stored"}
    for stage in (tmp_path / "cache/staging/v").iterdir():
        stage.unlink()
    volume.start(taken_over=False)
    assert volume.run(volume.fs.drain(2.0)) == 0
    assert _read(volume, b"old") == b"stored"
    assert _read(volume, b"new") == b""
    assert volume.objects() == {"old": b"stored", "new": b""}
    volume.stop()
