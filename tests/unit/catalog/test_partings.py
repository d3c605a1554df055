"""Who has a file open keeps it when others change or remove its object."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from csi_slayer.catalog import ROOT, Catalog, Defaults, Gone, Inode, Listed, vanishing
from csi_slayer.catalog.schema import VERSION
from csi_slayer.catalog.uses import Unused
from tests.unit.catalog.told import told

T = TypeVar("T")
DEFAULTS = Defaults(0, 0, 0o644, 0o755)
DIRECTORY = stat.S_IFDIR


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


class Users(Unused):
    """Files that are open and read, and whether staged copies are settled and the kernel knows the
    directories."""

    def __init__(self) -> None:
        self.read: set[int] = set()
        self.settled = False
        self.seen = True

    def is_open(self, ino: int) -> bool:
        return ino in self.read

    def is_seen(self, ino: int) -> bool:
        return self.seen

    def is_read(self, ino: int) -> bool:
        return ino in self.read

    def is_settled(self, inode: Inode) -> bool:
        return self.settled


@pytest.fixture
def users() -> Users:
    return Users()


@pytest.fixture
def catalog(tmp_path: Path, users: Users) -> Iterator[Catalog]:
    table = Catalog(tmp_path / "catalog.db", DEFAULTS)
    table.uses = users
    yield table
    table.close()


def child(catalog: Catalog, name: str, parent: int = ROOT) -> Inode:
    inode = run(catalog.child(parent, name))
    assert inode is not None
    return inode


def rows(catalog: Catalog) -> int:
    """Inodes in the table, also those without a name."""
    row = catalog._db.one("SELECT count(*) FROM inodes")
    assert row is not None
    return int(row[0])


class Bucket:
    """What listings of the root, each later than the one before it, show."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.clock = 2**62

    def shows(self, *items: Listed, parent: int = ROOT) -> Any:
        self.clock += 1
        merged = run(self.catalog.merge(parent, items, self.clock, DEFAULTS))
        gone = told(self.catalog.sweep(parent, self.clock, large=False))
        assert self.catalog.used_bytes == self.catalog.used_now()
        for one in (*merged.gone, *gone):
            if one.inode.is_dir:
                assert one.kept
                run(self.catalog.drop_orphan(one.inode.ino))
        return merged.changed, [*merged.gone, *gone]


@pytest.fixture
def bucket(catalog: Catalog) -> Bucket:
    return Bucket(catalog)


def file(name: str, etag: str = "e1", size: int = 10) -> Listed:
    return Listed(name, stat.S_IFREG, size, 1000, etag)


def test_another_version_of_what_is_read_is_another_inode(
    catalog: Catalog, users: Users, bucket: Bucket
) -> None:
    bucket.shows(file("a"))
    old = child(catalog, "a")
    users.read.add(old.ino)
    _changed, (gone,) = bucket.shows(file("a", "e2", 3))
    new, kept = child(catalog, "a"), run(catalog.get(old.ino))
    assert new.ino != old.ino and (new.etag, new.size) == ("e2", 3)
    assert (kept.nlink, kept.etag, kept.size, kept.lost) == (0, "e1", 10, "a")
    assert gone.kept and gone.inode == old
    assert run(catalog.path(old.ino)) is None and run(catalog.path(new.ino)) == "a"


def test_of_what_nobody_has_open_no_row_is_left(catalog: Catalog, bucket: Bucket) -> None:
    for _ in range(3):
        bucket.shows(Listed("d", DIRECTORY, 0, 1, None), file("x", size=0))
        directory = child(catalog, "d")
        bucket.shows(file("f"), Listed("below", DIRECTORY, 0, 1, None), parent=directory.ino)
        bucket.shows(file("g"), parent=child(catalog, "below", directory.ino).ino)
        assert rows(catalog) == 6
        changed, gone = bucket.shows(file("d", size=1000))
        assert not changed
        assert [g.name for g in gone if g.parent == ROOT] == ["d", "x"]
        assert {g.name for g in gone} == {"d", "f", "below", "g", "x"}
        assert rows(catalog) == 2
    bucket.shows()
    assert rows(catalog) == 1


def test_who_has_a_file_open_keeps_it_when_its_directory_goes(
    catalog: Catalog, users: Users, bucket: Bucket
) -> None:
    bucket.shows(Listed("d", DIRECTORY, 0, 1, None))
    directory = child(catalog, "d")
    bucket.shows(file("f"), parent=directory.ino)
    inode = child(catalog, "f", directory.ino)
    users.read.add(inode.ino)
    bucket.shows()
    kept = run(catalog.get(inode.ino))
    assert (kept.nlink, kept.lost) == (0, "d/f")
    assert rows(catalog) == 2


def test_who_reads_a_directory_meets_no_name_twice(
    catalog: Catalog, users: Users, bucket: Bucket
) -> None:
    names = [f"n{number}" for number in range(9)]
    bucket.shows(*(file(name) for name in names))
    seen: list[str] = []
    after = 0
    for turn in range(20):
        page = run(catalog.children(ROOT, after, 2))
        assert [(n.name, n.place) for n in run(catalog.names(ROOT, after, 2))] == [
            (name, inode.place) for name, inode in page
        ]
        if not page:
            break
        seen += [name for name, _inode in page]
        after = page[-1][1].place
        users.read |= {child(catalog, name).ino for name in names}
        _changed, gone = bucket.shows(*(file(name, f"turn {turn}") for name in names))
        assert len(gone) == len(names)
    assert seen == names


def test_a_settled_copy_is_let_go_for_another_version(
    catalog: Catalog, users: Users, bucket: Bucket
) -> None:
    inode = run(catalog.make(ROOT, "a", mode=stat.S_IFREG, uid=0, gid=0, stage="s"))
    row = run(catalog.pending("a"))
    assert row is not None
    run(catalog.stored(inode.ino, row, "e1", stamp=5, size=10))
    bucket.shows(file("a", "e2"))
    assert child(catalog, "a").ino == inode.ino  # it may be changed at any moment
    users.settled = True
    _changed, (gone,) = bucket.shows(file("a", "e2"))
    now = child(catalog, "a")
    assert now.ino != inode.ino and (now.etag, now.stage) == ("e2", None)
    assert gone.inode.stage == "s" and not gone.kept


@pytest.mark.parametrize("is_read", [False, True])
def test_a_version_that_an_upload_or_copy_meets(
    catalog: Catalog, users: Users, bucket: Bucket, is_read: bool
) -> None:
    bucket.shows(file("a"))
    old = child(catalog, "a")
    if is_read:
        users.read.add(old.ino)
    run(catalog.rename(old, ROOT, "a", ROOT, "b", displaced=None, keep_displaced=False))
    moved = run(catalog.get(old.ino))
    gone = run(catalog.superseded(moved, "a", "e2", size=7))
    now = child(catalog, "b")
    assert (now.etag, now.size, now.origin) == ("e2", 7, "a")
    assert [g.inode.ino for g in gone] == ([old.ino] if is_read else [])
    assert (now.ino == old.ino) == (not is_read)
    row = run(catalog.pending("a"))
    assert row is not None and row.expect == "e2"
    if is_read:
        kept = run(catalog.get(old.ino))
        assert (kept.etag, kept.size, kept.origin, kept.lost) == ("e1", 10, None, "a")
    assert catalog.used_bytes == catalog.used_now() == 7
    (gone_too,) = run(catalog.superseded(now, "a", None))
    assert gone_too.name == "b" and run(catalog.child(ROOT, "b")) is None
    assert catalog.used_bytes == catalog.used_now() == 0


def test_a_catalog_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    table = Catalog(path, DEFAULTS)
    bucket = Bucket(table)
    bucket.shows(file("a"), file("b"))
    names = [(name, inode.ino) for name, inode in run(table.children(ROOT, 0, 9))]
    table.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX dentries_order")
        connection.execute("ALTER TABLE dentries DROP COLUMN place")
        connection.execute("ALTER TABLE inodes DROP COLUMN place")
        connection.execute("ALTER TABLE inodes DROP COLUMN lost")
        connection.execute("CREATE UNIQUE INDEX dentries_order ON dentries(parent, ino, name)")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    assert VERSION == 3
    for _ in range(2):
        table = Catalog(path, DEFAULTS)
        found = run(table.children(ROOT, 0, 9))
        assert [(name, inode.ino) for name, inode in found] == names
        assert all(inode.place == inode.ino for _name, inode in found)
        assert run(table.path(names[0][1])) == "a"
        table.close()
    assert os.path.getsize(path)


def test_a_name_keeps_its_place_whatever_is_moved_to_it(catalog: Catalog, bucket: Bucket) -> None:
    bucket.shows(*(file(name) for name in "abcde"))
    places = {name: inode.place for name, inode in run(catalog.children(ROOT, 0, 9))}

    def renamed(name: str, new: str) -> None:
        moved, displaced = child(catalog, name), child(catalog, new)
        run(catalog.rename(
            moved, ROOT, name, ROOT, new, displaced=displaced, keep_displaced=False
        ))  # fmt: skip

    def exchanged(name: str, other: str) -> None:
        first, second = child(catalog, name), child(catalog, other)
        run(catalog.exchange(first, ROOT, name, second, ROOT, other))

    renamed("a", "d")
    renamed("e", "b")
    exchanged("d", "c")
    left = [(name, places[name]) for name in "bcd"]
    assert [(name, inode.place) for name, inode in run(catalog.children(ROOT, 0, 9))] == left
    assert [(row.name, row.place) for row in run(catalog.names(ROOT, 0, 9))] == left
    for name, _place in left:
        assert run(catalog.path(child(catalog, name).ino)) == name
    catalog._rows.forget()
    assert all(run(catalog.path(child(catalog, name).ino)) == name for name, _place in left)


def test_a_name_keeps_its_place_when_it_becomes_something_else(
    catalog: Catalog, bucket: Bucket
) -> None:
    bucket.shows(file("a"), Listed("d", DIRECTORY, 0, 1, None), file("link"), file("z"))
    run(catalog.update(child(catalog, "link").ino, mode=stat.S_IFLNK | 0o777, target="a"))
    places = [(name, inode.place) for name, inode in run(catalog.children(ROOT, 0, 9))]
    bucket.shows(
        Listed("a", DIRECTORY, 0, 1, None), file("d"), file("link", "e2", 3), file("z", "e2")
    )
    assert [(name, inode.place) for name, inode in run(catalog.children(ROOT, 0, 9))] == places


def test_of_a_directory_that_the_kernel_never_saw_no_row_is_left(
    catalog: Catalog, users: Users, bucket: Bucket
) -> None:
    users.seen = False
    bucket.shows(Listed("d", DIRECTORY, 0, 1, None))
    bucket.shows(file("f"), parent=child(catalog, "d").ino)
    told(catalog.sweep(ROOT, bucket.clock + 1, large=False))
    assert rows(catalog) == 1


class Tree:
    """``d/0`` to ``d/9`` with three files and an empty directory each, and a file beside ``d``."""

    def __init__(self, catalog: Catalog, bucket: Bucket) -> None:
        self._catalog = catalog
        self._bucket = bucket
        bucket.shows(Listed("d", DIRECTORY, 0, 1, None), file("beside"), file("z"))
        self.top = child(catalog, "d")
        names = [str(number) for number in range(10)]
        bucket.shows(*(Listed(n, DIRECTORY, 0, 1, None) for n in names), parent=self.top.ino)
        for name in names:
            below = child(catalog, name, self.top.ino).ino
            bucket.shows(*map(file, "abc"), Listed("e", DIRECTORY, 0, 1, None), parent=below)
        assert rows(catalog) == 1 + 3 + 10 + 40

    def gone(self, how: str) -> AsyncIterator[list[Gone]]:
        self._bucket.clock += 1
        if how == "swept":
            return self._catalog.sweep(ROOT, self._bucket.clock, large=False)
        return self._catalog.vanished(ROOT, "d", self._bucket.clock)


@pytest.mark.parametrize("how", ["swept", "vanished"])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 40, 250])
def test_a_tree_goes_some_names_at_a_time(
    catalog: Catalog, users: Users, bucket: Bucket, monkeypatch: pytest.MonkeyPatch,
    how: str, step: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(vanishing, "STEP", step)
    users.seen = False
    tree = Tree(catalog, bucket)
    beside = child(catalog, "beside")
    users.read.add(beside.ino)
    read: list[tuple[str, Inode]] = []
    children = catalog._children

    def counted(*where: int) -> list[tuple[str, Inode]]:
        found = children(*where)
        read.extend(found)
        return found

    monkeypatch.setattr(catalog, "_children", counted)
    gone = told(tree.gone(how))
    assert len(read) == (50 if step < 51 else 0)
    assert catalog.used_bytes == catalog.used_now()
    inos = [one.inode.ino for one in gone]
    assert len(set(inos)) == len(inos) == 51 + 2 * (how == "swept")
    assert all(one.parent == one.inode.parent for one in gone)
    assert {one.name for one in gone if one.parent == ROOT} == (
        {"d", "beside", "z"} if how == "swept" else {"d"}
    )
    assert [one.name for one in gone if one.kept] == (["beside"] if how == "swept" else [])
    assert run(catalog.child(ROOT, "d")) is None
    assert rows(catalog) == (2 if how == "swept" else 3)
    if how == "swept":
        assert run(catalog.get(ROOT)).listed_ns == bucket.clock


def test_with_few_names_go_few_inodes_at_a_time(
    catalog: Catalog, users: Users, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories that are no crowds, but many of them are."""
    monkeypatch.setattr(vanishing, "STEP", 5)
    users.seen = False
    names = [str(number) for number in range(10)]
    bucket.shows(*(Listed(name, DIRECTORY, 0, 1, None) for name in names))
    for name in names:
        bucket.shows(*map(file, "abcd"), parent=child(catalog, name).ino)
    bucket.clock += 1

    async def sizes() -> list[int]:
        return [len(some) async for some in catalog.sweep(ROOT, bucket.clock, large=False)]

    found = run(sizes())
    assert sum(found) == 50
    assert max(found) <= 10
    assert rows(catalog) == 1
    assert run(catalog.get(ROOT)).listed_ns == bucket.clock


@pytest.mark.parametrize("how", ["swept", "vanished"])
def test_others_have_a_turn_while_a_tree_goes_and_what_they_make_stays(
    catalog: Catalog, users: Users, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(vanishing, "STEP", 5)
    users.seen = False
    tree = Tree(catalog, bucket)

    async def collect() -> list[Gone]:
        return [one async for some in tree.gone(how) for one in some]

    async def other() -> tuple[Inode, int]:
        for _ in range(3):
            await asyncio.sleep(0)
        left = rows(catalog)
        directory = await catalog.child(tree.top.ino, "9")
        assert directory is not None
        made = await catalog.make(directory.ino, "new", mode=stat.S_IFREG, uid=0, gid=0, stage="s")
        return made, left

    async def both() -> tuple[list[Gone], tuple[Inode, int]]:
        return await asyncio.gather(collect(), other())

    gone, (made, left) = run(both())
    assert 20 < left < 53
    assert run(catalog.path(made.ino)) == "d/9/new"
    assert not {"d", "9"} & {one.name for one in gone}
    assert rows(catalog) == (4 if how == "swept" else 6)
    assert catalog.used_bytes == catalog.used_now()
