"""Names that move faster than the store follows, and workers that die on the way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.reconcile import Reconciler
from csi_slayer.errors import SlayerError
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path, passthrough=False, ttl=3600)


def put(volume: Volume, name: bytes, data: bytes) -> None:
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, name, 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, opened, 0, data)
    try:
        volume.run(fs.flush(volume.request(), entry.attr.ino, opened.fh))
    finally:
        volume.run(fs.release(volume.request(), entry.attr.ino, opened.fh))


def rename(volume: Volume, old: bytes, new: bytes) -> None:
    volume.run(volume.fs.rename(volume.request(), ROOT, old, ROOT, new, 0))


def test_a_name_is_used_again_before_its_rename_was_carried_out(volume: Volume) -> None:
    put(volume, b"a", b"one")
    rename(volume, b"a", b"b")
    put(volume, b"a", b"two")
    assert volume.objects()["a"] == b"two"
    volume.stop()
    assert volume.objects() == {"a": b"two", "b": b"one"}


def test_two_names_are_swapped_by_renames(volume: Volume) -> None:
    put(volume, b"a", b"one")
    put(volume, b"b", b"two")
    rename(volume, b"a", b"t")
    rename(volume, b"b", b"a")
    rename(volume, b"t", b"b")
    volume.stop()
    assert volume.objects() == {"a": b"two", "b": b"one"}


@pytest.fixture
def tree(tmp_path: Path) -> Volume:
    """Over a store that keeps objects as files."""
    return Volume(tmp_path, passthrough=False, ttl=3600, tree=True)


def mkdir(volume: Volume, name: bytes) -> int:
    entry = volume.run(volume.fs.mkdir(volume.request(), ROOT, name, 0o755))
    assert entry.attr is not None
    return entry.attr.ino


@pytest.mark.parametrize("exchange", [False, True])
def test_a_file_and_a_directory_swap_their_names(tree: Volume, exchange: bool) -> None:
    put(tree, b"a", b"file")
    put(tree, b"x", b"inside")
    d = mkdir(tree, b"d")
    tree.run(tree.fs.rename(tree.request(), ROOT, b"x", d, b"x", 0))
    tree.turn(100)
    assert tree.objects() == {"a": b"file", "d/": b"", "d/x": b"inside"}
    if exchange:
        tree.run(tree.fs.rename(tree.request(), ROOT, b"a", ROOT, b"d", 2))
    else:
        rename(tree, b"a", b"t")
        rename(tree, b"d", b"a")
        rename(tree, b"t", b"d")
    tree.stop()
    assert tree.objects() == {"a/": b"", "a/x": b"inside", "d": b"file"}


def test_a_file_moves_into_a_directory_of_its_name_and_back(tree: Volume) -> None:
    put(tree, b"a", b"one")
    rename(tree, b"a", b"t")
    a = mkdir(tree, b"a")
    tree.run(tree.fs.rename(tree.request(), ROOT, b"t", a, b"x", 0))
    tree.turn(100)
    assert tree.objects() == {"a/": b"", "a/x": b"one"}
    tree.run(tree.fs.rename(tree.request(), a, b"x", ROOT, b"t", 0))
    tree.run(tree.fs.rmdir(tree.request(), ROOT, b"a"))
    rename(tree, b"t", b"a")
    tree.stop()
    assert tree.objects() == {"a": b"one"}


def test_a_file_closed_where_a_directory_was_is_stored(tree: Volume) -> None:
    d = mkdir(tree, b"d")
    put(tree, b"x", b"old")
    tree.run(tree.fs.rename(tree.request(), ROOT, b"x", d, b"x", 0))
    tree.turn(100)
    tree.run(tree.fs.unlink(tree.request(), d, b"x"))
    tree.run(tree.fs.rmdir(tree.request(), ROOT, b"d"))
    put(tree, b"d", b"new")
    assert tree.objects() == {"d": b"new"}
    tree.stop()


def test_a_copy_that_nobody_noted_is_deleted(volume: Volume) -> None:
    """The worker died between the copy of a rename and its note; then the file moved on."""
    put(volume, b"a", b"one")
    rename(volume, b"a", b"b")
    volume.store.dies_in = 1
    volume.turn(50)
    assert volume.objects() == {"a": b"one", "b": b"one"}
    volume.die()
    volume.start(taken_over=True)
    rename(volume, b"b", b"c")
    volume.stop()
    assert volume.objects() == {"c": b"one"}
    assert volume.events.conflicts == 0


def test_an_upload_that_nobody_noted_is_deleted(volume: Volume) -> None:
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"a", 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, opened, 0, b"one")
    volume.run(fs.release(volume.request(), entry.attr.ino, opened.fh))
    volume.store.dies_in = 1
    volume.turn(50)
    assert volume.objects() == {"a": b"one"}
    volume.die()
    volume.start(taken_over=True)
    volume.run(volume.fs.unlink(volume.request(), ROOT, b"a"))
    volume.stop()
    assert volume.objects() == {}


@pytest.mark.parametrize("ahead", range(12))
@pytest.mark.parametrize("over", [False, True])
def test_an_upload_that_ends_while_a_rename_looks_its_names_up(
    tmp_path: Path, ahead: int, over: bool
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0, durability="fsync")
    fs = volume.fs
    put(volume, b"from", b"new")
    if over:
        put(volume, b"to", b"old")
    volume.turn(ahead)
    rename(volume, b"from", b"to")
    volume.turn(50)
    assert volume.objects() == {"to": b"new"}
    assert volume.run(fs.lookup(volume.request(), ROOT, b"from")).attr is None
    volume.stop()
    assert volume.objects() == {"to": b"new"}
    assert volume.events.conflicts == 0


def test_the_mark_of_a_directory_that_nobody_noted_is_deleted(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died between the mark's upload and its note; the directory is removed before its
    successor looks at what is pending."""
    mkdir(volume, b"d")
    volume.store.dies_in = 1
    volume.turn(50)
    assert volume.objects() == {"d/": b""}
    volume.die()
    begin = Reconciler.start
    with monkeypatch.context() as patch:
        patch.setattr(Reconciler, "start", lambda _self: None)
        volume.start(taken_over=True)
    volume.run(volume.fs.rmdir(volume.request(), ROOT, b"d"))

    async def go_on() -> None:
        begin(volume.fs.content.reconciler)

    volume.run(go_on())
    volume.stop()
    assert volume.objects() == {}


# What somebody else does to an object that is being renamed.


def replace(volume: Volume, key: str, data: bytes) -> None:
    volume.bucket.objects[key] = Blob(data, f'"other-{key}"', 10**18, {})


def read(volume: Volume, name: bytes) -> bytes:
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, name))
    assert entry.attr is not None
    opened = volume.run(volume.fs.open(volume.request(), entry.attr.ino, os.O_RDONLY))
    data = volume.read(entry.attr.ino, opened, 0, 1 << 20)
    volume.run(volume.fs.release(volume.request(), entry.attr.ino, opened.fh))
    return data


def test_a_renamed_object_that_was_changed_moves_as_it_is(volume: Volume) -> None:
    put(volume, b"a", b"one")
    replace(volume, "a", b"theirs, longer")
    rename(volume, b"a", b"b")
    volume.turn(50)
    assert volume.objects() == {"b": b"theirs, longer"}
    assert read(volume, b"b") == b"theirs, longer"
    volume.stop()


def test_a_renamed_object_that_was_deleted_is_gone(volume: Volume) -> None:
    put(volume, b"a", b"one")
    del volume.bucket.objects["a"]
    rename(volume, b"a", b"b")
    volume.turn(50)
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"b"))
    assert entry.attr is None
    volume.stop()
    assert volume.objects() == {}


def test_a_new_file_is_stored_though_its_predecessor_was_changed(volume: Volume) -> None:
    put(volume, b"a", b"one")
    replace(volume, "a", b"theirs")
    rename(volume, b"a", b"a.bak")
    put(volume, b"a", b"two")
    assert volume.objects() == {"a": b"two", "a.bak": b"theirs"}
    volume.stop()


def test_two_names_are_swapped_though_one_was_changed(volume: Volume) -> None:
    put(volume, b"a", b"one")
    put(volume, b"b", b"two")
    replace(volume, "a", b"theirs")
    rename(volume, b"a", b"t")
    rename(volume, b"b", b"a")
    rename(volume, b"t", b"b")
    volume.stop()
    assert volume.objects() == {"a": b"two", "b": b"theirs"}


def test_bytes_that_are_here_are_stored_and_the_others_stay(volume: Volume) -> None:
    """A file that is open for writing is renamed, and its object replaced by somebody else."""
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"a", 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, opened, 0, b"ours")
    volume.run(fs.flush(volume.request(), entry.attr.ino, opened.fh))
    replace(volume, "a", b"theirs")
    rename(volume, b"a", b"b")
    volume.run(fs.fsync(volume.request(), entry.attr.ino, opened.fh, False))
    volume.run(fs.release(volume.request(), entry.attr.ino, opened.fh))
    volume.stop()
    assert volume.objects() == {"a": b"theirs", "b": b"ours"}


@pytest.mark.parametrize("durability", ["close", "fsync"])
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_what_has_the_name_of_a_file_that_is_open_and_was_changed_is_stored(
    tmp_path: Path, durability: str, renamed: bool, there: bool
) -> None:
    """The bytes of the open file are here, so that its object, which somebody else has replaced or
    removed, is left alone: but not by the file that has the name now."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability=durability)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"a", 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, opened, 0, b"open")
    volume.run(fs.fsync(volume.request(), entry.attr.ino, opened.fh, False))
    if there:
        replace(volume, "a", b"theirs")
    else:
        del volume.bucket.objects["a"]
    if renamed:
        put(volume, b"new", b"ours")
        volume.turn(50)
        rename(volume, b"new", b"a")
    else:
        volume.run(fs.unlink(volume.request(), ROOT, b"a"))
        with contextlib.suppress(SlayerError):
            put(volume, b"a", b"ours")
    volume.turn(200)
    volume.run(fs.release(volume.request(), entry.attr.ino, opened.fh))
    volume.stop()
    assert "new" not in volume.bucket.objects
    if there and not renamed:  # a conflict: the store's stays, ours is kept
        assert volume.objects() == {"a": b"theirs"}
        assert volume.events.conflicts == 1
        kept = [p for p in (tmp_path / "cache/conflicts").rglob("*a-*") if not p.suffix]
        assert [p.read_bytes() for p in kept] == [b"ours"]
    else:
        assert volume.objects()["a"] == b"ours"
        others = [v for k, v in volume.objects().items() if k.startswith(".slayerfs/conflicts/")]
        assert others == ([b"theirs"] if there else [])


@pytest.mark.parametrize("there", [False, True])
def test_attributes_of_an_object_that_was_changed(tmp_path: Path, there: bool) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, posix=True)
    put(volume, b"a", b"one")
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"a"))
    assert entry.attr is not None
    if there:
        replace(volume, "a", b"theirs")
    else:
        del volume.bucket.objects["a"]
    changes = SetAttr(mode=0o600)
    volume.run(volume.fs.setattr(volume.request(), entry.attr.ino, changes))
    volume.stop()
    assert volume.objects() == ({"a": b"theirs"} if there else {})
    if there:
        assert int(volume.bucket.objects["a"].metadata["mode"]) & 0o777 == 0o600


def test_what_was_stored_since_a_pass_began_is_deleted(tmp_path: Path) -> None:
    """A pass that waits, for a slow store, has seen the key before the mark was known there."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)

    async def run() -> None:
        fs = volume.fs
        await fs.mkdir(volume.request(), ROOT, b"d", 0o755)
        assert await fs.drain(2.0) == 0
        await fs.rmdir(volume.request(), ROOT, b"d")
        row = await fs.catalog.pending("d/")
        assert row is not None
        seen = row._replace(expect="", doubt=0)
        await fs.content.reconciler._delete_many([seen])
        assert await fs.catalog.pending("d/") is None

    volume.run(run())
    assert volume.objects() == {}
    volume.stop()


def test_what_is_noted_because_others_deleted_what_moves_is_carried_out(volume: Volume) -> None:
    """A directory whose last file is gone is marked, although nobody here calls again."""
    volume.bucket.objects["d/sub/f"] = Blob(b"x", '"x"', 10**18, {})

    async def find() -> None:
        entry = await volume.fs.lookup(volume.request(), ROOT, b"d")
        assert entry.attr is not None
        entry = await volume.fs.lookup(volume.request(), entry.attr.ino, b"sub")
        assert entry.attr is not None
        await volume.fs.readdir(volume.request(), entry.attr.ino, 0, 0, 10, False)

    volume.run(find())
    del volume.bucket.objects["d/sub/f"]
    rename(volume, b"d", b"e")
    volume.turn(200)
    assert volume.run(volume.catalog.pendings("", 99)) == []
    assert "e/sub/" in volume.bucket.objects
    volume.stop()


def test_what_was_in_the_way_has_gone_by_the_time_it_is_looked_for(
    tree: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion of our own, of which nothing is pending any more."""
    tree.run(tree.fs.readdir(tree.request(), ROOT, 0, 0, 10, False))
    tree.bucket.objects["a/x"] = Blob(b"in the way", '"x"', 10**18, {})
    make_way = Reconciler._make_way

    async def made(self: Reconciler, key: str) -> bool:
        tree.bucket.objects.pop("a/x", None)
        return await make_way(self, key)

    monkeypatch.setattr(Reconciler, "_make_way", made)
    put(tree, b"a", b"new")
    tree.stop()
    assert tree.objects() == {"a": b"new"}
