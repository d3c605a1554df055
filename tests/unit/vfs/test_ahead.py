"""Directories are listed ahead for who reads one after the other, and for nobody else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import StoreUnavailable
from csi_slayer.vfs import ahead
from csi_slayer.vfs.fetch_ahead import BEYOND
from csi_slayer.vfs.pages import PAGE
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob
from tests.unit.vfs.test_listings import list_names, put

COUNT = 40
NAMES = [f"d{number:02}" for number in range(COUNT)]


class Watched:
    """Which prefixes were listed, and how many at once."""

    def __init__(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefixes: list[str] = []
        self.running = self.most = 0
        self.fails = False
        list_page = volume.store.list_page

        async def watched(prefix: str, **more: Any) -> Any:
            if more.get("limit") == 1:  # a single name is asked for
                return await list_page(prefix, **more)
            self.prefixes.append(prefix)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(0.001)
                if self.fails:
                    raise StoreUnavailable("away")
                return await list_page(prefix, **more)
            finally:
                self.running -= 1

        monkeypatch.setattr(volume.store, "list_page", watched)

    def taken(self) -> list[str]:
        taken, self.prefixes = sorted(self.prefixes), []
        return taken


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path, passthrough=False, ttl=3600)
    for name in NAMES:
        put(made, f"{name}/file")
    yield made
    made.stop()


@pytest.fixture
def watched(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(volume, monkeypatch)


async def ino_of(volume: Volume, name: str, parent: int = ROOT) -> int:
    inode = await volume.catalog.child(parent, name)
    assert inode is not None
    return inode.ino


def visit(volume: Volume, *names: str) -> None:
    """Read these directories of the root, and let what was begun end."""
    for name in names:
        assert volume.run(list_names(volume, volume.run(ino_of(volume, name)))) == ["file"]
    volume.turn(200)


def test_a_walk_waits_for_few_directories(volume: Volume, watched: Watched) -> None:
    assert volume.run(list_names(volume)) == NAMES
    watched.taken()
    visit(volume, "d00")
    assert watched.taken() == ["d00/"]
    visit(volume, "d01")
    assert watched.taken() == ["d01/", "d02/", "d03/"]
    visit(volume, "d02")
    assert watched.taken() == ["d04/", "d05/", "d06/"]
    visit(volume, *NAMES[3:])
    assert watched.taken() == [f"{name}/" for name in NAMES[7:]], "each of them once"
    assert watched.most > 4


def test_who_goes_elsewhere_is_no_walker(volume: Volume, watched: Watched) -> None:
    volume.run(list_names(volume))
    watched.taken()
    for names in (["d10", "d14", "d18"], ["d09", "d08", "d07"], ["d20", "d02", "d30"]):
        visit(volume, *names)
        assert watched.taken() == sorted(f"{name}/" for name in names)


def test_a_walk_may_leave_some_out(volume: Volume, watched: Watched) -> None:
    volume.run(list_names(volume))
    watched.taken()
    visit(volume, "d00", "d03")
    assert watched.taken() == ["d00/", "d03/", "d04/", "d05/"]


def test_a_walk_goes_down_at_once(volume: Volume, watched: Watched) -> None:
    for inner in ("a", "b", "c", "d", "e"):
        put(volume, f"d01/{inner}/file")
    volume.run(list_names(volume))
    visit(volume, "d00")
    watched.taken()
    below = volume.run(ino_of(volume, "d01"))
    assert sorted(volume.run(list_names(volume, below))) == ["a", "b", "c", "d", "e", "file"]
    watched.taken()
    volume.run(list_names(volume, volume.run(ino_of(volume, "a", below))))
    volume.turn(200)
    assert watched.taken() == ["d01/a/", "d01/b/", "d01/c/"]


def test_a_walk_goes_on_through_empty_directories(volume: Volume, watched: Watched) -> None:
    """Their end is asked for from where their reading begins."""
    for name in NAMES:
        del volume.bucket.objects[f"{name}/file"]
        volume.bucket.objects[f"{name}/"] = Blob(b"", f'"{name}"', 10**18, {})
    volume.run(list_names(volume))
    watched.taken()
    most = 0
    for name in NAMES:
        assert volume.run(list_names(volume, volume.run(ino_of(volume, name)))) == []
        volume.turn(200)
        most = max(most, len(watched.taken()))
    assert most > 4


def test_names_that_are_no_directories_do_not_count(volume: Volume, watched: Watched) -> None:
    put(volume, *(f"d00-{number}" for number in range(50)))
    volume.run(list_names(volume))
    watched.taken()
    visit(volume, "d00", "d01")
    assert watched.taken() == ["d00/", "d01/", "d02/", "d03/"]


def test_nothing_is_listed_ahead_without_prefetch(volume: Volume, watched: Watched) -> None:
    volume.live.prefetch = False
    volume.run(list_names(volume))
    watched.taken()
    visit(volume, *NAMES[:5])
    assert watched.taken() == [f"{name}/" for name in NAMES[:5]]


def test_nothing_is_listed_ahead_that_is_not_believed(volume: Volume, watched: Watched) -> None:
    volume.live.metadata_ttl = 0.5
    volume.run(list_names(volume))
    watched.taken()
    visit(volume, *NAMES[:5])
    assert watched.taken() == [f"{name}/" for name in NAMES[:5]]


def test_who_takes_longer_than_names_are_believed(volume: Volume, watched: Watched) -> None:
    """Each directory is listed ahead no more than once, and few of them."""
    volume.run(list_names(volume))
    watched.taken()
    for name in NAMES:
        visit(volume, name)
        for other in NAMES:
            ino = volume.run(ino_of(volume, other))
            volume.run(volume.catalog.update(ino, listed_ns=1))
    listed = watched.taken()
    assert all(listed.count(f"{name}/") <= 2 for name in NAMES)


def read_files(volume: Volume, name: str, *files: str) -> None:
    """Read the names, then open the files in this directory of the root."""
    parent = volume.run(ino_of(volume, name))
    volume.run(list_names(volume, parent))
    for file in files:
        ino = volume.run(ino_of(volume, file, parent))
        opened = volume.run(volume.fs.open(volume.request(), ino, os.O_RDONLY))
        volume.run(volume.fs.release(volume.request(), ino, opened.fh))
    volume.turn(200)


def keys_got(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with each GET."""
    got: list[str] = []
    get = volume.store.get

    async def watched(key: str, **more: Any) -> Any:
        got.append(key)
        return await get(key, **more)

    monkeypatch.setattr(volume.store, "get", watched)
    return got


def test_files_of_the_next_directories_are_fetched(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = keys_got(volume, monkeypatch)
    put(volume, *(f"{name}/two" for name in NAMES), *(f"d20/{n:03}" for n in range(100)))
    volume.run(list_names(volume))
    read_files(volume, "d00", "file")
    assert sorted(got) == ["d00/file", "d00/two"], "the rest of the one directory"
    read_files(volume, "d01")
    read_files(volume, "d02")
    assert len(got) == 2, "who reads names alone has no files fetched"
    read_files(volume, "d03", "file")
    assert {*got} >= {f"d{n:02}/{file}" for n in (3, 4, 5, 6) for file in ("file", "two")}
    for name in NAMES[4:]:
        read_files(volume, name, "file", "two")
    assert len(got) == len({*got}), "each of them once"
    assert 2 < len([key for key in got if key.startswith("d20/")]) <= BEYOND + 2


def test_no_more_is_fetched_than_a_part_of_the_cache(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be evicted before it is used."""
    got = keys_got(volume, monkeypatch)
    monkeypatch.setattr(volume.fs.content.smalls, "room", 5)
    volume.run(list_names(volume))
    for name in NAMES[:10]:
        read_files(volume, name, "file")
    assert len(got) == len({*got})
    assert max(got) == "d14/file", "five that are not read yet"
    put(volume, *(f"e/{number}" for number in range(10)))
    volume.run(volume.fs.refresh.ensure_listed(volume.run(volume.catalog.get(ROOT))))
    volume.run(volume.catalog.update(ROOT, listed_ns=1))
    volume.run(list_names(volume))
    got.clear()
    read_files(volume, "e", "0")
    assert sorted(got) == [f"e/{number}" for number in range(5)]


def test_so_many_at_once(volume: Volume, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AT_ONCE", 3)
    volume.run(list_names(volume))
    visit(volume, *NAMES)
    assert watched.most <= 4, "those and the reader's own"


def test_no_more_than_a_page_of_a_large_one(volume: Volume, watched: Watched) -> None:
    put(volume, *(f"d02/{number:05}" for number in range(2 * PAGE)))
    volume.run(list_names(volume))
    watched.taken()
    visit(volume, "d00", "d01")
    assert watched.taken() == ["d00/", "d01/", "d02/", "d03/"]
    assert len(volume.run(list_names(volume, volume.run(ino_of(volume, "d02"))))) == 2 * PAGE + 1


@pytest.mark.parametrize("believed", [True, False])
def test_of_a_large_one_the_rest_comes_while_it_is_listed(
    volume: Volume, watched: Watched, believed: bool
) -> None:
    put(volume, *(f"d02/{number:05}" for number in range(4 * PAGE)))
    volume.run(list_names(volume))
    visit(volume, "d00", "d01")
    watched.taken()
    ino = volume.run(ino_of(volume, "d02"))
    if not believed:
        volume.catalog._db.execute("UPDATE inodes SET checked_ns = 1 WHERE parent = ?", (ino,))
        volume.catalog._rows.forget()
    items = volume.run(volume.fs.readdir(volume.request(), ino, 0, 0, 300, False))
    assert len(items) == 300
    pages = watched.taken()
    assert (len(pages) < 3) == believed, pages
    found = {item.name for item in items}
    while items:
        items = volume.run(
            volume.fs.readdir(volume.request(), ino, 0, items[-1].cookie, 300, False)
        )
        assert not found & {item.name for item in items}
        found |= {item.name for item in items}
    assert len(found) == 4 * PAGE + 1 + 2


def test_a_listing_ahead_that_fails_fails_nobody(volume: Volume, watched: Watched) -> None:
    volume.run(list_names(volume))
    visit(volume, "d00")
    ino = volume.run(ino_of(volume, "d01"))
    volume.run(volume.fs.refresh.ensure_listed(volume.run(volume.catalog.get(ino))))
    watched.taken()
    watched.fails = True
    assert volume.run(list_names(volume, ino)) == ["file"]
    volume.turn(200)
    assert watched.taken() == ["d02/", "d03/"]
    watched.fails = False
    visit(volume, "d02", "d03")
