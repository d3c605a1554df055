"""Somebody else has replaced an object that is to be moved away, or renamed over, and what takes
its name turns out to be gone: the deletion that is left is not one of theirs."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import SlayerError
from csi_slayer.vfs.nameops import RENAME_EXCHANGE
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path, passthrough=False, ttl=3600)


def create(volume: Volume, name: bytes, data: bytes = b"ours") -> tuple[int, Opened]:
    """A file that the store has, and a handle that keeps its staged copy."""
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, name, 0o644, os.O_RDWR))
    assert entry.attr is not None
    ino = entry.attr.ino
    volume.write(ino, opened, 0, data)
    volume.run(fs.flush(volume.request(), ino, opened.fh))
    kept = volume.run(fs.open(volume.request(), ino, os.O_RDONLY))
    volume.run(fs.release(volume.request(), ino, opened.fh))
    assert volume.objects()[name.decode()] == data
    return ino, kept


def close(volume: Volume, file: tuple[int, Opened]) -> None:
    volume.run(volume.fs.release(volume.request(), file[0], file[1].fh))


def rename(volume: Volume, old: bytes, new: bytes, flags: int = 0) -> None:
    volume.run(volume.fs.rename(volume.request(), ROOT, old, ROOT, new, flags))


def replace(volume: Volume, key: str, data: bytes = b"theirs") -> None:
    volume.bucket.objects[key] = Blob(data, f'"{data[:9].decode()}"', 10**18, {})


def after(volume: Volume, monkeypatch: pytest.MonkeyPatch, name: str, then: Any) -> None:
    """Have something done, once, as soon as the catalog has noted that."""
    note: Callable[..., Awaitable[object]] = getattr(volume.catalog, name)

    async def noted(*args: Any) -> None:
        await note(*args)
        monkeypatch.undo()
        await then()

    monkeypatch.setattr(volume.catalog, name, noted)


@pytest.mark.parametrize("dies_after", [None, *range(8)])
@pytest.mark.parametrize("other", [b"m", b"zz"])
def test_exchanged_with_a_file_that_is_gone(
    volume: Volume, other: bytes, dies_after: int | None
) -> None:
    file = create(volume, b"z")
    close(volume, create(volume, other))
    replace(volume, "z")
    del volume.bucket.objects[other.decode()]
    rename(volume, b"z", other, RENAME_EXCHANGE)
    if dies_after is None:
        volume.turn(100)
        close(volume, file)
    else:
        volume.turn(dies_after)
        volume.die()
        volume.start(taken_over=False)
    volume.stop()
    assert b"theirs" in volume.objects().values()
    if dies_after is None:
        assert volume.objects() == {"z": b"theirs", other.decode(): b"ours"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_name_is_removed_whose_object_was_found_to_be_anothers(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    file = create(volume, b"z")
    close(volume, create(volume, b"m"))
    replace(volume, "z")
    if gone:
        del volume.bucket.objects["m"]
    after(volume, monkeypatch, "disown", lambda: volume.fs.unlink(volume.request(), ROOT, b"z"))
    rename(volume, b"z", b"m", RENAME_EXCHANGE)
    volume.turn(100)
    close(volume, file)
    volume.stop()
    assert volume.objects() == {"z": b"theirs", "m": b"ours"}


@pytest.mark.parametrize("name", [b"a", b"x"])
def test_renamed_twice_and_the_name_taken_by_a_file_that_is_gone(
    volume: Volume, name: bytes
) -> None:
    file = create(volume, b"z")
    close(volume, create(volume, name))
    replace(volume, "z")
    del volume.bucket.objects[name.decode()]
    rename(volume, b"z", b"t")
    rename(volume, b"t", b"m")
    rename(volume, name, b"z")
    volume.turn(100)
    close(volume, file)
    volume.stop()
    assert volume.objects() == {"z": b"theirs", "m": b"ours"}


@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_that_is_gone_is_renamed_over_one_that_was_replaced(
    volume: Volume, is_open: bool
) -> None:
    file = create(volume, b"a")
    close(volume, create(volume, b"x"))
    if not is_open:
        close(volume, file)
    replace(volume, "a")
    del volume.bucket.objects["x"]
    rename(volume, b"x", b"a")
    volume.turn(100)
    if is_open:
        close(volume, file)
    volume.stop()
    assert volume.objects() == {"a": b"theirs"}


def test_a_file_that_is_gone_is_renamed_over_one_that_is_as_it_was(volume: Volume) -> None:
    close(volume, create(volume, b"a"))
    close(volume, create(volume, b"x"))
    del volume.bucket.objects["x"]
    rename(volume, b"x", b"a")
    volume.stop()
    assert volume.objects() == {}


@pytest.mark.parametrize(("renamed", "over"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("there", [False, True])
def test_a_file_changed_in_part_whose_object_was_replaced_or_deleted(
    tmp_path: Path, there: bool, renamed: bool, over: bool
) -> None:
    """The parts that are not here cannot be copied by the store: a conflict, once."""
    volume = Volume(
        tmp_path, passthrough=False, ttl=3600, hydrate_max=0, part_size=256 << 10,
        segment_max=1 << 20,
    )  # fmt: skip
    volume.live.prefetch = False
    replace(volume, "a", b"1" * (4 << 20))
    if over:
        replace(volume, "b", b"old")
    fs = volume.fs
    entry = volume.run(fs.lookup(volume.request(), ROOT, b"a"))
    assert entry.attr is not None
    ino = entry.attr.ino
    opened = volume.run(fs.open(volume.request(), ino, os.O_RDWR))
    volume.write(ino, opened, 5, b"changed")
    replace(volume, "a")
    if not there:
        del volume.bucket.objects["a"]
    if renamed:
        rename(volume, b"a", b"b")
    with pytest.raises(SlayerError):
        volume.run(fs.flush(volume.request(), ino, opened.fh))
    close(volume, (ino, opened))
    volume.stop()
    assert volume.objects() == {
        **({"a": b"theirs"} if there else {}),
        **({"b": b"old"} if over else {}),
    }
    assert volume.events.conflicts == 1


def test_what_is_stored_where_something_was_moved_aside_stays(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(volume, create(volume, b"z"))
    close(volume, create(volume, b"m"))
    del volume.bucket.objects["m"]

    async def then() -> None:
        replace(volume, "z")

    after(volume, monkeypatch, "relocated", then)
    rename(volume, b"z", b"m", RENAME_EXCHANGE)
    volume.stop()
    assert volume.objects() == {"z": b"theirs", "m": b"ours"}
