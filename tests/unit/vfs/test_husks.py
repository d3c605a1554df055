"""Directories that a store lists although nothing is in them: MinIO shows an object so while it is
deleted, and for ever if a request for it died half done."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.vfs import refresh
from csi_slayer.vfs.types import Attr
from tests.unit.vfs.calls import create
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob, MemoryStore


def _volume(path: Path) -> Volume:
    return Volume(path, passthrough=False, ttl=0)


def _names(volume: Volume, ino: int = ROOT) -> dict[str, bool]:
    """What a directory shows, and whether it is a directory."""
    items = volume.run(volume.fs.readdir(volume.request(), ino, 0, 0, 1000, True))
    return {i.name.decode(): stat.S_ISDIR(i.mode) for i in items if i.name not in (b".", b"..")}


def _look(volume: Volume, name: str) -> Attr | None:
    return volume.run(volume.fs.lookup(volume.request(), ROOT, name.encode())).attr


def _create(volume: Volume, name: str, data: bytes) -> None:
    volume.run(create(volume, name.encode(), data))


def test_a_deleted_file_does_not_come_back_as_a_directory(tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    _create(volume, "f", b"one")
    _create(volume, "g", b"stays")
    volume.bucket.husks.add("f")
    assert _names(volume) == {"f": False, "g": False}
    volume.run(volume.fs.unlink(volume.request(), ROOT, b"f"))
    volume.turn(20)
    assert set(volume.objects()) == {"g"}
    for _ in range(2):
        assert "f" not in _names(volume)
        assert _look(volume, "f") is None
    _create(volume, "f", b"two")
    assert volume.objects() == {"f": b"two", "g": b"stays"}
    volume.stop()


def test_a_worker_that_takes_over_does_not_see_what_the_death_left(tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    _create(volume, "f", b"one")
    _names(volume)
    volume.run(volume.fs.unlink(volume.request(), ROOT, b"f"))
    volume.die()
    volume.bucket.husks.add("f")
    volume.start(taken_over=True)
    volume.turn(20)
    assert _names(volume) == {}
    _create(volume, "f", b"two")
    volume.stop()
    assert volume.objects() == {"f": b"two"}


def test_an_object_listed_as_a_directory_for_a_moment_stays_what_it_is(tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    _create(volume, "f", b"one")
    _names(volume)
    before = _look(volume, "f")
    assert before is not None
    blob = volume.bucket.objects.pop("f")
    volume.bucket.husks.add("f")
    head = MemoryStore.head

    async def back(self: MemoryStore, key: str) -> object:
        volume.bucket.objects.setdefault("f", blob)
        return await head(self, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStore, "head", back)
        assert _names(volume) == {"f": False}
    after = _look(volume, "f")
    assert after is not None and after.ino == before.ino
    volume.stop()


def test_a_directory_found_empty_is_none(tmp_path: Path) -> None:
    """It is shown where it was never listed before, until somebody looks into it."""
    volume = _volume(tmp_path)
    volume.bucket.husks.add("d")
    found = _look(volume, "d")
    assert found is not None and stat.S_ISDIR(found.mode)
    assert _names(volume, found.ino) == {}
    volume.turn(5)
    assert _look(volume, "d") is None
    assert _names(volume) == {}
    _create(volume, "d", b"a file")
    volume.stop()
    assert volume.objects() == {"d": b"a file"}


def test_a_directory_made_here_stays_though_it_is_empty(tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    made = volume.run(volume.fs.mkdir(volume.request(), ROOT, b"d", 0o755)).attr
    assert made is not None
    for _ in range(3):
        assert _names(volume, made.ino) == {}
        assert _names(volume) == {"d": True}
        volume.turn(20)
    assert set(volume.objects()) == {"d/"}
    volume.stop()


@pytest.mark.parametrize("count", [3, 40])
def test_directories_made_by_others_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Also when there are more of them than are asked for."""
    monkeypatch.setattr(refresh, "DOUBTED", 10)
    volume = _volume(tmp_path)
    assert _names(volume) == {}
    for number in range(count):
        volume.bucket.objects[f"d{number}/x"] = Blob(b"", '"x"', 10**18, {})
    before = volume.store.heads
    assert _names(volume) == {f"d{number}": True for number in range(count)}
    assert volume.store.heads - before == min(count, 10)
    before = volume.store.heads
    _names(volume)
    assert volume.store.heads == before, "they are known now"
    volume.stop()


def test_many_readers_of_an_empty_directory(tmp_path: Path) -> None:
    volume = _volume(tmp_path)
    volume.bucket.husks.add("d")
    found = _look(volume, "d")
    assert found is not None
    fs = volume.fs

    async def crowd() -> list[int]:
        reads = (fs.readdir(volume.request(), found.ino, 0, 0, 99, False) for _ in range(9))
        return [len(items) for items in await asyncio.gather(*reads)]

    assert volume.run(crowd()) == [2] * 9
    volume.stop()
