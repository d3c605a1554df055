"""A local directory says that something is stored only when a power loss cannot take it back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import StoreUnavailable
from csi_slayer.store.base import ABSENT, ObjectStore
from csi_slayer.store.local.attributes import Attributes
from csi_slayer.store.local.names import HIDDEN
from csi_slayer.store.local.tree import Tree
from csi_slayer.store.open import open_store
from csi_slayer.store.options import StoreOptions
from csi_slayer.store.write_token import WRITE_TOKEN

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Write = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "objects").mkdir()
    return tmp_path / "objects"


@pytest.fixture
def store(run: Run, root: Path) -> Iterator[ObjectStore]:
    store = run(open_store(f"file://{root}", StoreOptions()))
    yield store
    run(store.close())


class Disk:
    """Syncs of directories: as long as some are ``bad`` theirs fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bad: list[Path] = []
        self.synced: list[Path] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path in self.bad:
            raise OSError(errno.EIO, "Input/output error")
        if path.is_dir():
            self.synced.append(path)
        self._fsync(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("kind", ["object", "marker", "upload", "completed upload"])
def test_what_is_ours_already_is_durable_before_that_is_said(
    run: Run, store: ObjectStore, root: Path, disk: Disk, kind: str
) -> None:
    """A retry was answered by what the first attempt had not been able to make durable."""
    run(store.put("dir/other", b""))
    folder, mine = root / "dir", {WRITE_TOKEN: "mine"}
    write: Write = partial(store.put, "dir/key", b"bytes", condition=ABSENT, metadata=mine)
    if kind == "marker":
        folder = root / "dir" / "key"
        write = partial(store.put, "dir/key/", b"", condition=ABSENT, metadata=mine)
    elif kind != "object":
        upload = run(store.create_multipart("dir/key"))
        write = partial(store.complete_multipart, "dir/key", upload, [], condition=ABSENT)
    disk.bad = [folder]
    for attempt in range(3):
        if kind == "completed upload" and attempt:  # its parts are gone: it has been completed
            shutil.rmtree(root / HIDDEN / "uploads" / upload, ignore_errors=True)
        with pytest.raises(StoreUnavailable):
            run(write())
        assert os.path.lexists(root / "dir" / "key")
    disk.bad, disk.synced = [], []
    run(write())
    assert disk.synced == [folder]


def test_a_directory_that_could_not_be_made_durable_is_made_again(
    run: Run, store: ObjectStore, root: Path, disk: Disk
) -> None:
    disk.bad = [root]
    with pytest.raises(StoreUnavailable):
        run(store.put("dir/key", b"bytes"))
    disk.bad = []
    run(store.put("dir/key", b"bytes"))
    assert disk.synced == [root, root / "dir"]


def test_a_marker_that_is_taken_from_a_directory_stays_taken(
    run: Run, store: ObjectStore, root: Path, disk: Disk
) -> None:
    run(store.put("dir/", b""))
    run(store.put("dir/key", b"bytes"))
    disk.synced = []
    run(store.delete("dir/"))
    assert root / "dir" in disk.synced


def test_a_directory_goes_with_its_last_object(
    run: Run, store: ObjectStore, root: Path, disk: Disk
) -> None:
    """Before the disk is waited for, or who is killed meanwhile leaves it, as a marker."""
    run(store.put("dir/", b""))
    run(store.put("dir/below/key", b"bytes"))
    run(store.delete("dir/"))
    disk.bad = [root, root / "dir", root / "dir" / "below"]
    with pytest.raises(StoreUnavailable):
        run(store.delete("dir/below/key"))
    assert not (root / "dir").exists()
    disk.bad, disk.synced = [], []
    run(store.delete("dir/below/key"))
    assert disk.synced == [root]


@pytest.mark.parametrize("pruned", [0, 1, 2])
@pytest.mark.parametrize("last", ["a/dir/below/key", "a/dir/below/"])
def test_a_directory_goes_whose_last_object_a_killed_process_removed(
    run: Run,
    store: ObjectStore,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    last: str,
    pruned: int,
) -> None:
    """However many of those above it had gone by then."""
    rmdir, before = os.rmdir, iter(range(pruned))

    def killed(*args: Any, **where: Any) -> None:
        if next(before, None) is None:
            raise OSError(errno.EIO, "killed before that")
        rmdir(*args, **where)

    run(store.put(last, b""))
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", killed)
        patch.setattr(os, "ftruncate", lambda *_: None)
        run(store.delete(last))
    assert os.listdir(root / "a") == ["dir"] * (pruned < 2)
    run(run(open_store(f"file://{root}", StoreOptions())).close())
    assert os.listdir(root) == [HIDDEN]


def test_a_killed_process_that_found_nothing_to_remove_leaves_the_directory(
    run: Run, store: ObjectStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "made" / "elsewhere").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda *_: None)
        run(store.delete("made/elsewhere/dir/key"))
    run(run(open_store(f"file://{root}", StoreOptions())).close())
    assert os.listdir(root / "made") == ["elsewhere"]


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("made", [0, 1, 2, 3])
def test_directories_that_were_made_in_vain_go(
    run: Run,
    store: ObjectStore,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: int,
    killed: bool,
) -> None:
    """By who failed to put an object there, or whoever comes after who was killed at it: they were
    markers, and the key may not be wanted any more. What was there before stays."""
    mkdir, before = os.mkdir, iter(range(2 + made))  # also of those that are there

    def ends(*args: Any, **where: Any) -> None:
        if next(before, None) is None:
            raise OSError(errno.EIO, "that is all")
        mkdir(*args, **where)

    def in_vain(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "that is all")

    (root / "made" / "elsewhere").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", ends)
        patch.setattr(os, "rename", in_vain)
        if killed:
            patch.setattr(Tree, "_carry_on", lambda _tree: None)
        with pytest.raises(StoreUnavailable):
            run(store.put("made/elsewhere/a/b/c/key", b"bytes"))
    assert (root / "made" / "elsewhere" / "a").exists() == (killed and made > 0)
    run(run(open_store(f"file://{root}", StoreOptions())).close())
    assert os.listdir(root / "made" / "elsewhere") == []


def test_attributes_beside_an_object_are_as_durable_as_it_is(
    run: Run, root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system has no extended attributes."""
    monkeypatch.setattr(Attributes, "_probe", lambda self: False)
    store = run(open_store(f"file://{root}", StoreOptions()))
    run(store.put("key", b"bytes", metadata={"mode": "33188"}))
    assert disk.synced == [root / HIDDEN / "attributes", root]
    run(store.close())
