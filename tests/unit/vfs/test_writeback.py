"""Policy writeback uploads when writers pause, or when something has waited for long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import rest
from tests.unit.vfs.harness import Volume

HOUR = 3600.0


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volume]:
    monkeypatch.setattr(rest, "WRITEBACK_REST", HOUR)
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", HOUR)
    opened = Volume(tmp_path, passthrough=True, ttl=HOUR, durability="writeback")
    yield opened
    opened.stop()


def make(volume: Volume, name: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    entry, opened = volume.run(volume.fs.create(volume.request(), ROOT, name, 0o644, flags))
    assert entry.attr is not None
    volume.write(entry.attr.ino, opened, 0, name)
    volume.run(volume.fs.release(volume.request(), entry.attr.ino, opened.fh))


def test_what_was_just_written_is_left_alone(volume: Volume) -> None:
    make(volume, b"a")
    volume.fs.content.reconciler.retry()
    volume.turn(30)
    assert volume.objects() == {}


def test_a_pause_of_the_writers_is_enough(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    make(volume, b"a")
    monkeypatch.setattr(rest, "WRITEBACK_REST", 0.0)
    volume.fs.content.reconciler.retry()
    volume.turn(30)
    assert volume.objects() == {"a": b"a"}


def test_what_waits_for_long_is_uploaded_without_a_pause(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(volume, b"a")
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", 0.0)
    volume.fs.content.reconciler.retry()
    volume.turn(30)
    assert volume.objects() == {"a": b"a"}


def test_a_file_that_is_written_again_and_again_is_uploaded_all_the_same(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(volume, b"a")
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", 0.2)
    reconciler = volume.fs.content.reconciler
    end = time.monotonic() + 20
    while not volume.objects():
        assert time.monotonic() < end
        inode = volume.run(volume.fs.lookup(volume.request(), ROOT, b"a")).attr
        assert inode is not None
        flags = os.O_WRONLY | os.O_TRUNC
        opened = volume.run(volume.fs.open(volume.request(), inode.ino, flags))
        volume.write(inode.ino, opened, 0, b"b")
        volume.run(volume.fs.release(volume.request(), inode.ino, opened.fh))
        reconciler.retry()
        volume.turn(3)
    assert volume.objects() == {"a": b"b"}


def test_writers_are_looked_after_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "WRITEBACK_REST", 0.01)
    monkeypatch.setattr(rest, "WRITEBACK_LOOK", 0.001)
    volume = Volume(tmp_path, passthrough=True, ttl=HOUR, durability="writeback")
    for number in range(5):
        make(volume, b"f%d" % number)
    while len(volume.objects()) < 5:
        volume.turn(10)
    volume.stop()


def test_a_drain_does_not_wait(volume: Volume) -> None:
    for number in range(20):
        make(volume, b"f%d" % number)
    assert volume.run(volume.fs.drain(HOUR)) == 0
    assert len(volume.objects()) == 20
