"""Which names of a directory a reader gets, and what the kernel may keep of them."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from csi_slayer.catalog import ROOT, Catalog, Inode, Name
from csi_slayer.errors import CacheFull, CatalogError, StoreUnavailable
from csi_slayer.store.base import ListPage
from csi_slayer.vfs import pages, refresh
from csi_slayer.vfs.pages import PAGE
from csi_slayer.vfs.refresh import LISTINGS
from csi_slayer.vfs.types import DirItem, OpenFlags
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


def put(volume: Volume, *names: str) -> None:
    for name in names:
        volume.bucket.objects[name] = Blob(b"x", f'"{name}"', 10**18, {})


async def list_names(volume: Volume, ino: int = ROOT) -> list[str]:
    """As ``ls`` does it, from the beginning to the empty answer."""
    found: list[str] = []
    cookie = 0
    while items := await volume.fs.readdir(volume.request(), ino, 0, cookie, 300, False):
        found.extend(item.name.decode() for item in items)
        cookie = items[-1].cookie
    return found[2:]


async def look_up(volume: Volume, name: bytes, parent: int = ROOT) -> int:
    entry = await volume.fs.lookup(volume.request(), parent, name)
    return 0 if entry.attr is None else entry.attr.ino


async def expire(volume: Volume, *inos: int) -> None:
    """What is known of these is older than the TTL."""
    for ino in inos:
        await volume.catalog.update(ino, listed_ns=1, checked_ns=1)


@pytest.fixture
def volume(tmp_path: Path, told: list[int]) -> Volume:
    made = Volume(tmp_path, passthrough=False, ttl=3600)

    def tell(ino: int) -> bool:
        told.append(ino)
        return True

    made.kernel.invalidate_inode = tell  # type: ignore[method-assign]
    return made


@pytest.fixture
def told() -> list[int]:
    """Inodes of which the kernel was told to drop what it has."""
    return []


async def keeps(volume: Volume, ino: int = ROOT) -> bool:
    opened = await volume.fs.opendir(volume.request(), ino)
    return bool(opened.flags & OpenFlags.KEEP_CACHE)


@pytest.mark.parametrize("change", ["added", "removed"])
def test_names_that_a_look_up_finds_changed_are_not_kept_by_the_kernel(
    volume: Volume, told: list[int], change: str
) -> None:
    """The look-up lists the directory; that the names are fresh then says nothing of the
    kernel's."""

    async def run() -> None:
        put(volume, "a", "b")
        assert await list_names(volume) == ["a", "b"]
        assert await keeps(volume)
        if change == "added":
            put(volume, "c")
        else:
            del volume.bucket.objects["b"]
        a, b = await look_up(volume, b"a"), await look_up(volume, b"b")
        await expire(volume, ROOT, a, b)
        assert await look_up(volume, b"a") == a
        assert ROOT in told
        assert not await keeps(volume)
        assert await keeps(volume)

    volume.run(run())
    volume.stop()


def test_a_name_that_is_asked_for_alone_is_new_in_the_kernels_names(
    volume: Volume, told: list[int]
) -> None:
    async def run() -> None:
        put(volume, "a")
        assert await list_names(volume) == ["a"]
        put(volume, "b")
        await volume.fs.refresh.name(await volume.catalog.get(ROOT), "b", force=True)
        assert told == [ROOT]
        assert not await keeps(volume)

    volume.run(run())
    volume.stop()


def test_a_first_listing_and_one_without_news_leave_the_kernel_its_names(
    volume: Volume, told: list[int]
) -> None:
    async def run() -> None:
        put(volume, *(f"{number:04d}" for number in range(2500)))
        assert len(await list_names(volume)) == 2500
        await expire(volume, ROOT)
        assert len(await list_names(volume)) == 2500
        assert told == []
        assert await keeps(volume)

    volume.run(run())
    volume.stop()


def test_names_that_the_kernel_shows_without_asking_are_dropped_when_their_ttl_is_over(
    volume: Volume, told: list[int]
) -> None:
    volume.kernel.lists_unseen = True

    async def run() -> None:
        put(volume, "d/a", "e/a")
        d, e = await look_up(volume, b"d"), await look_up(volume, b"e")
        begun = asyncio.get_running_loop().time()
        assert await list_names(volume, d) == ["a"]
        await asyncio.sleep(3000)
        assert await list_names(volume, e) == ["a"]
        assert told == []
        await asyncio.sleep(begun + 3601 - asyncio.get_running_loop().time())
        assert told == [d]
        await asyncio.sleep(3000)
        assert told == [d, e]

    volume.run(run())
    volume.stop()


def test_a_successor_has_the_kernel_drop_the_names_that_it_shows_without_asking(
    volume: Volume, told: list[int]
) -> None:
    """Nobody else would: which it has is not known any more."""
    volume.kernel.lists_unseen = True

    async def run() -> int:
        put(volume, "d/a", "e/a")
        d = await look_up(volume, b"d")
        await look_up(volume, b"e")
        await list_names(volume, d)
        return d

    d = volume.run(run())
    volume.die()
    told.clear()
    volume.start(taken_over=True)
    volume.turn(100)
    assert sorted(told) == [ROOT, d]
    volume.stop()


def test_a_successor_tells_the_kernel_although_it_has_to_try_again(
    volume: Volume, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog cannot be read at first, and too many invalidations wait."""
    volume.kernel.lists_unseen = True
    refusals = ["catalog", *["kernel"] * 5]
    listed, tell = Catalog.listed, volume.kernel.invalidate_inode

    async def broken(self: Catalog, inos: range) -> list[int]:
        if refusals[0:1] == ["catalog"]:
            refusals.pop(0)
            raise CatalogError("disk I/O error")
        return await listed(self, inos)

    def stuck(ino: int) -> bool:
        if refusals:
            refusals.pop()
            return False
        return tell(ino)

    put(volume, "d/a")
    d = volume.run(look_up(volume, b"d"))
    assert volume.run(list_names(volume, d)) == ["a"]
    volume.die()
    told.clear()
    monkeypatch.setattr(Catalog, "listed", broken)
    monkeypatch.setattr(volume.kernel, "invalidate_inode", stuck)
    volume.start(taken_over=True)
    volume.run(asyncio.sleep(60))
    assert told == [ROOT, d]
    assert not refusals
    volume.stop()


@pytest.mark.parametrize("end", ["fails", "hangs"])
def test_a_reader_of_a_known_directory_comes_to_its_end_although_the_store_goes_away(
    volume: Volume, end: str
) -> None:
    """Somebody else had it listed anew meanwhile."""

    async def away(*_args: Any, **_values: Any) -> ListPage:
        await asyncio.sleep(2 if end == "fails" else 3600)
        raise StoreUnavailable("the network is gone")

    whole = volume.store.list_page

    async def run() -> None:
        put(volume, "a", "b")
        await volume.fs.refresh.ensure_listed(await volume.catalog.get(ROOT))
        items = await volume.fs.readdir(volume.request(), ROOT, 0, 0, 300, False)
        assert len(items) == 4
        volume.store.list_page = away  # type: ignore[method-assign]
        await expire(volume, ROOT)
        await volume.fs.refresh.begin(await volume.catalog.get(ROOT))
        begun = asyncio.get_running_loop().time()
        last = items[-1].cookie
        assert await volume.fs.readdir(volume.request(), ROOT, 0, last, 300, False) == []
        assert asyncio.get_running_loop().time() < begun + 10
        assert volume.fs.refresh.away
        volume.store.list_page = whole  # type: ignore[method-assign]

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("end", ["fails", "dies"])
def test_a_reader_gets_all_names_although_the_first_listing_came_to_no_end(
    volume: Volume, end: str
) -> None:
    """Nobody waited for it at that moment: the reader still had names to look at."""
    names = [f"{number:04d}" for number in range(2500)]
    whole = volume.store.list_page

    async def broken(prefix: str, *, token: str | None = None, **values: Any) -> ListPage:
        if token is not None:
            if end == "fails":
                await asyncio.sleep(0.5)
                raise StoreUnavailable("the network is gone")
            await asyncio.Event().wait()
        return await whole(prefix, token=token, **values)

    async def begin() -> tuple[int, list[DirItem]]:
        put(volume, *(f"d/{name}" for name in names))
        d = await look_up(volume, b"d")
        volume.store.list_page = broken  # type: ignore[method-assign]
        items = await volume.fs.readdir(volume.request(), d, 0, 0, 300, False)
        await asyncio.sleep(1)
        return d, list(items)

    d, items = volume.run(begin())
    if end == "dies":
        volume.die()
        volume.start(taken_over=True)

    async def go_on() -> None:
        fs = volume.fs
        while more := await fs.readdir(volume.request(), d, 0, items[-1].cookie, 300, False):
            items.extend(more)

    if end == "fails":
        with pytest.raises(StoreUnavailable):
            volume.run(go_on())
        assert len(items) == 2 + PAGE
        volume.store.list_page = whole  # type: ignore[method-assign]
    volume.run(go_on())
    assert [item.name.decode() for item in items[2:]] == names
    volume.stop()


@pytest.mark.parametrize("keys", ["{0}", "{1:02}/{0}", "{1:02}/{2:02}/{0}"])
def test_others_come_between_while_a_tree_that_is_known_is_looked_through(
    volume: Volume, keys: str
) -> None:
    """As before a directory is renamed, and for a quota: of a million files it took seconds."""
    put(volume, *(keys.format(number, number % 40, number % 1600) for number in range(3200)))
    looked: list[int] = []
    turns = 0

    async def run() -> None:
        root = await volume.catalog.get(ROOT)
        await volume.fs.refresh.ensure_tree(root)
        loop, names = asyncio.get_running_loop(), volume.catalog.names

        async def look(ino: int, after: int, limit: int) -> list[Name]:
            found = await names(ino, after, limit)
            if found:
                looked.append(ino)
            return found

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        volume.catalog.names = look  # type: ignore[method-assign]
        loop.call_soon(turn)
        await volume.fs.refresh.ensure_tree(await volume.catalog.get(ROOT))

    volume.run(run())
    volume.stop()
    assert len(looked) >= 4
    assert turns >= len(looked)


def test_the_directories_of_a_tree_that_is_looked_through_are_not_all_in_memory(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be a million in one, of half a kilobyte each."""
    put(volume, *(f"{number}/f" for number in range(1000)))
    refresh, find = volume.fs.refresh, volume.catalog.find
    listed: list[int] = []
    ahead = most = 0

    async def count_found(ino: int) -> Inode | None:
        nonlocal ahead, most
        ahead += 1
        most = max(most, ahead)
        return await find(ino)

    async def count_listed(directory: Inode, *, stale: bool = False) -> None:
        nonlocal ahead
        ahead -= 1
        listed.append(directory.ino)

    async def run() -> None:
        root = await volume.catalog.get(ROOT)
        await refresh.ensure_tree(root)
        monkeypatch.setattr(volume.catalog, "find", count_found)
        monkeypatch.setattr(refresh, "ensure_listed", count_listed)
        await refresh.ensure_tree(root)

    volume.run(run())
    volume.stop()
    assert len(listed) == len(set(listed)) == 1001
    assert most <= LISTINGS


def test_names_that_are_known_are_found_where_no_others_are_learned(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket has more names than the cache's disk has room for. Somebody adds some."""

    def room() -> None:
        raise CacheFull("hardly any room")

    async def run() -> None:
        put(volume, "a", "b")
        assert await list_names(volume) == ["a", "b"]
        put(volume, "a", "c")
        monkeypatch.setattr("csi_slayer.catalog.listings.SURE", 0)
        monkeypatch.setattr(volume.catalog, "room", room)
        with capture_logs() as logs:
            for name in (b"a", b"b"):
                inode = await volume.catalog.child(ROOT, name.decode())
                assert inode is not None
                await expire(volume, ROOT, inode.ino)
                assert await look_up(volume, name) == inode.ino
            with pytest.raises(CacheFull):
                await look_up(volume, b"c")
            assert await look_up(volume, b"absent") == 0
            with pytest.raises(CacheFull):
                await list_names(volume)
        events = [line["event"] for line in logs if line["log_level"] == "warning"]
        assert events == ["names of the store are not learned"], "once, not each time"
        monkeypatch.undo()
        assert await list_names(volume) == ["a", "b", "c"]

    volume.run(run())
    volume.stop()


def test_the_names_of_a_page_are_taken_in_some_at_a_time(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody else waits while the table learns them."""
    monkeypatch.setattr(refresh, "TAKEN_IN", 10)
    put(volume, *(f"d/{number:02d}" for number in range(45)))

    async def scenario() -> None:
        d = await look_up(volume, b"d")
        listing = asyncio.ensure_future(
            volume.fs.refresh.ensure_listed(await volume.catalog.get(d))
        )
        seen = [0]
        while not listing.done():
            await asyncio.sleep(0)
            seen.append(len(await volume.catalog.names(d, 0, 100)))
        assert max(after - before for before, after in itertools.pairwise(seen)) <= 10
        assert await list_names(volume, d) == [f"{number:02d}" for number in range(45)]

    volume.run(scenario())
    volume.stop()


def test_a_directory_that_is_renamed_within_a_page_and_back_is_not_taken_for_listed(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left of the page nobody had learned, and it was missing until the next listing."""
    monkeypatch.setattr(refresh, "TAKEN_IN", 10)
    monkeypatch.setattr(pages, "PAGE", 30)
    put(volume, "d/", *(f"d/{number:02d}" for number in range(45)))

    async def move(old: str, new: str) -> None:
        d = await volume.catalog.child(ROOT, old)
        assert d is not None
        await volume.catalog.rename(d, ROOT, old, ROOT, new, displaced=None, keep_displaced=False)

    async def scenario() -> None:
        d = await look_up(volume, b"d")
        gate = asyncio.Event()
        first = volume.store.list_page

        async def list_page(*args: Any, **options: Any) -> ListPage:
            if options.get("token") is not None:
                await gate.wait()
            return await first(*args, **options)

        monkeypatch.setattr(volume.store, "list_page", list_page)
        listing = (await volume.fs.refresh.begin(await volume.catalog.get(d))).task
        assert listing is not None
        while not await volume.catalog.names(d, 0, 100):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await move("d", "n")
        for _ in range(5):
            await asyncio.sleep(0)
        await move("n", "d")
        gate.set()
        await listing
        assert (await volume.catalog.get(d)).listed_ns == 0
        assert len(await list_names(volume, d)) == 45

    volume.run(scenario())
    volume.die()


def test_a_directory_that_is_renamed_within_a_page_gets_no_names_of_its_old_place(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "TAKEN_IN", 10)
    put(volume, "d/", *(f"d/{number:02d}" for number in range(45)))

    async def scenario() -> None:
        d = await look_up(volume, b"d")
        listing = (await volume.fs.refresh.begin(await volume.catalog.get(d))).task
        assert listing is not None
        while not (known := await volume.catalog.names(d, 0, 100)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        inode = await volume.catalog.get(d)
        await volume.catalog.rename(
            inode, ROOT, "d", ROOT, "n", displaced=None, keep_displaced=False
        )
        assert await volume.catalog.pending("d/"), "its mark was known before its names"
        await listing
        assert len(known) == 10
        assert await volume.catalog.names(d, 0, 100) == known

    volume.run(scenario())
    volume.die()


def test_a_large_directory_is_known_to_be_large_also_where_its_names_are_not_learned(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a page of it would be asked for with each name that is looked up."""

    def room() -> None:
        raise CacheFull("hardly any room")

    async def run() -> None:
        put(volume, *(f"{number:04}" for number in range(PAGE + 1)))
        monkeypatch.setattr("csi_slayer.catalog.listings.SURE", 0)
        monkeypatch.setattr(volume.catalog, "room", room)
        list_page, listed = volume.store.list_page, []

        async def count(prefix: str, **values: Any) -> ListPage:
            listed.append(prefix)
            return await list_page(prefix, **values)

        monkeypatch.setattr(volume.store, "list_page", count)
        for number in range(5):
            assert await look_up(volume, b"absent%d" % number) == 0
        assert listed.count("") <= 2, "the first page, and one that is asked for ahead"

    volume.run(run())
    volume.stop()


def test_files_whose_names_are_directories_are_told_of_once(volume: Volume) -> None:
    """Not each time that their directory is listed."""

    async def run() -> None:
        put(volume, "a", "a/b", "c")
        with capture_logs() as logs:
            for _ in range(3):
                await expire(volume, ROOT)
                assert sorted(await list_names(volume)) == ["a", "c"]
        (hidden,) = [line for line in logs if line["event"] == "keys hidden"]
        assert hidden["first"] == "a"
        assert hidden["error"] == "the same name is a directory"

    volume.run(run())
    volume.stop()


def test_keys_that_cannot_be_names_are_told_of_once(volume: Volume) -> None:
    """Not with each of the pages, which may have no end, nor each time that a directory is
    listed."""

    async def run() -> None:
        put(volume, "a", *(f"{number:04}{'x' * 300}" for number in range(2 * PAGE)))
        with capture_logs() as logs:
            for _ in range(3):
                await expire(volume, ROOT)
                assert await list_names(volume) == ["a"]
        hidden = [line for line in logs if line["event"] == "keys hidden"]
        assert len(hidden) == 1
        assert hidden[0]["first"] == "0000" + "x" * 300

    volume.run(run())
    volume.stop()
