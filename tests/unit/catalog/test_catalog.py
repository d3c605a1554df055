"""The inode table: names, pending keys, listings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from csi_slayer.catalog import ROOT, Catalog, Defaults, Inode, Listed, Mark, changes
from csi_slayer.errors import CatalogError, FsError
from tests.unit.catalog.told import told

T = TypeVar("T")
DEFAULTS = Defaults(0, 0, 0o644, 0o755)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    table = Catalog(tmp_path / "catalog.db", DEFAULTS)
    yield table
    table.close()


def make(catalog: Catalog, parent: int, name: str, mode: int = stat.S_IFREG | 0o644) -> Inode:
    return run(catalog.make(parent, name, mode=mode, uid=0, gid=0))


def test_other_defaults_hold_for_what_does_not_say(tmp_path: Path) -> None:
    """volume.uid and the like had no effect on what an earlier mount had seen."""
    table = Catalog(tmp_path / "catalog.db", DEFAULTS)
    names = ("plain", "own", "read", "set")
    entries = [*map(listed, names), Listed("d", stat.S_IFDIR, 0, 1000, None)]
    run(table.merge(ROOT, entries, 1, DEFAULTS))
    inodes = {name: run(table.child(ROOT, name)).ino for name in names}  # type: ignore[union-attr]
    run(table.update(inodes["own"], add=Mark.ATTRS_KNOWN, uid=7))
    run(table.update(inodes["read"], add=Mark.ATTRS_KNOWN))  # its metadata said nothing
    run(table.update(inodes["set"], add=Mark.ATTRS_KNOWN | Mark.ATTRS_DIRTY, uid=0))
    table.close()
    for _ in range(2):
        table = Catalog(tmp_path / "catalog.db", Defaults(1, 2, 0o600, 0o700))
        shown = {}
        for name in ("", *names, "d"):
            inode = run(table.child(ROOT, name)) if name else run(table.get(ROOT))
            assert inode is not None
            shown[name] = (stat.S_IMODE(inode.mode), inode.uid, inode.gid)
            if name == "read":
                assert inode.is_unread, "or the object says the same, and that counts"
        table.close()
        assert shown == {
            "": (0o700, 1, 2),
            "plain": (0o600, 1, 2),
            "own": (0o644, 7, 0),
            "read": (0o600, 1, 2),
            "set": (0o644, 0, 0),
            "d": (0o700, 1, 2),
        }


def store(catalog: Catalog, inode: Inode, key: str, etag: str) -> None:
    row = run(catalog.pending(key))
    assert row is not None
    assert run(catalog.stored(inode.ino, row, etag))


def pending(catalog: Catalog) -> dict[str, str | None]:
    return {row.key: row.expect for row in run(catalog.pendings("", 1000))}


def listed(name: str, etag: str = "e", size: int = 1) -> Listed:
    return Listed(name, stat.S_IFREG, size, 1000, etag)


def test_a_new_file_is_pending_and_expected_absent(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    assert pending(catalog) == {"a": ""}
    assert run(catalog.path(inode.ino)) == "a"
    assert run(catalog.resolve("a")) == inode


def test_the_oldest_note_is_known(catalog: Catalog) -> None:
    assert run(catalog.pending_oldest()) is None
    before = time.time_ns()
    a = make(catalog, ROOT, "a")
    make(catalog, ROOT, "b")
    oldest = run(catalog.pending_oldest())
    row = run(catalog.pending("a"))
    assert row is not None and oldest is not None
    assert before <= oldest == row.since_ns
    store(catalog, a, "a", "e1")
    row = run(catalog.pending("b"))
    assert row is not None and run(catalog.pending_oldest()) == row.since_ns


def test_storing_settles_the_key(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    store(catalog, inode, "a", "e1")
    assert pending(catalog) == {}


def test_rename_leaves_the_content_at_its_origin_until_it_is_copied(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    store(catalog, inode, "a", "e1")
    inode = run(catalog.get(inode.ino))
    run(catalog.rename(inode, ROOT, "a", ROOT, "b", displaced=None, keep_displaced=False))
    assert pending(catalog) == {"a": "e1", "b": ""}
    assert run(catalog.get(inode.ino)).origin == "a"
    run(catalog.rename(run(catalog.get(inode.ino)), ROOT, "b", ROOT, "a",
                       displaced=None, keep_displaced=False))  # fmt: skip
    assert run(catalog.get(inode.ino)).origin is None


def test_rename_over_a_file_expects_its_version(catalog: Catalog) -> None:
    a, b = make(catalog, ROOT, "a"), make(catalog, ROOT, "b")
    store(catalog, a, "a", "ea")
    store(catalog, b, "b", "eb")
    a, b = run(catalog.get(a.ino)), run(catalog.get(b.ino))
    run(catalog.rename(a, ROOT, "a", ROOT, "b", displaced=b, keep_displaced=False))
    assert pending(catalog) == {"a": "ea", "b": "eb"}
    with pytest.raises(FsError):
        run(catalog.get(b.ino))


def test_directory_rename_moves_every_key(catalog: Catalog) -> None:
    top = make(catalog, ROOT, "d", stat.S_IFDIR | 0o755)
    sub = make(catalog, top.ino, "s", stat.S_IFDIR | 0o755)
    file = make(catalog, sub.ino, "f")
    for key in ("d/", "d/s/"):
        row = run(catalog.pending(key))
        assert row is not None
        run(catalog.settled(top.ino if key == "d/" else sub.ino, row, None))
    store(catalog, file, "d/s/f", "e")
    run(catalog.rename(run(catalog.get(top.ino)), ROOT, "d", ROOT, "n",
                       displaced=None, keep_displaced=False))  # fmt: skip
    assert set(pending(catalog)) == {"d/", "n/", "d/s/", "n/s/", "d/s/f", "n/s/f"}
    assert run(catalog.path(file.ino)) == "n/s/f"
    assert run(catalog.get(file.ino)).origin == "d/s/f"


def test_an_unlinked_open_file_keeps_its_object_until_it_is_dropped(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    store(catalog, inode, "a", "e1")
    run(catalog.remove(ROOT, "a", run(catalog.get(inode.ino)), keep=True))
    orphan = run(catalog.get(inode.ino))
    assert (orphan.nlink, orphan.origin) == (0, "a")
    assert [i.ino for i in run(catalog.by_origin("a"))] == [inode.ino]
    assert run(catalog.origins_among(["b", "a", "'\\\""])) == {"a"}
    run(catalog.drop_orphan(inode.ino))
    assert run(catalog.origins_among(["a"])) == set()
    assert run(catalog.by_origin("a")) == []
    assert pending(catalog) == {"a": "e1"}


def test_a_directory_that_loses_its_last_name_gets_a_marker(catalog: Catalog) -> None:
    run(catalog.merge(ROOT, [Listed("d", stat.S_IFDIR, 0, 1, None)], 1, DEFAULTS))
    directory = run(catalog.child(ROOT, "d"))
    assert directory is not None
    run(catalog.merge(directory.ino, [listed("f")], 1, DEFAULTS))
    file = run(catalog.child(directory.ino, "f"))
    assert file is not None
    run(catalog.remove(directory.ino, "f", file, keep=False))
    assert pending(catalog) == {"d/": "", "d/f": "e"}


def test_directories_may_be_as_deep_as_a_key_has_room_for(tmp_path: Path) -> None:
    def opened() -> contextlib.closing[Catalog]:
        return contextlib.closing(Catalog(tmp_path / "deep.db", DEFAULTS))

    path = "d/" * 511 + "f"
    with opened() as catalog:
        parent = ROOT
        for _ in range(511):
            parent = make(catalog, parent, "d", stat.S_IFDIR | 0o755).ino
        file = make(catalog, parent, "f")
    with opened() as catalog:
        assert run(catalog.path(file.ino)) == path
    with opened() as catalog:
        found = run(catalog.resolve(path))
        assert found is not None
        assert found.ino == file.ino
        assert run(catalog.resolve("d/" * 200 + "x/f")) is None


def test_listing_shows_changes_and_removals(catalog: Catalog) -> None:
    run(catalog.merge(ROOT, [listed("a"), listed("b")], 10, DEFAULTS))
    told(catalog.sweep(ROOT, 10, large=False))
    merged = run(catalog.merge(ROOT, [listed("a", "e2", 5)], 20, DEFAULTS))
    gone = told(catalog.sweep(ROOT, 20, large=False))
    now = run(catalog.child(ROOT, "a"))
    assert now is not None and (now.etag, now.size) == ("e2", 5)
    assert (merged.changed, merged.gone) == ([now.ino], [])
    assert [(g.name, g.kept) for g in gone] == [("b", False)]


def test_what_is_changed_here_wins_over_a_listing(catalog: Catalog) -> None:
    make(catalog, ROOT, "new")
    run(catalog.merge(ROOT, [listed("old")], 10, DEFAULTS))
    old = run(catalog.child(ROOT, "old"))
    assert old is not None
    run(catalog.remove(ROOT, "old", old, keep=False))
    later = 2**62
    run(catalog.merge(ROOT, [listed("old"), listed("new", "theirs")], later, DEFAULTS))
    assert told(catalog.sweep(ROOT, later, large=False)) == []
    assert run(catalog.child(ROOT, "old")) is None
    new = run(catalog.child(ROOT, "new"))
    assert new is not None and new.etag is None


def test_a_listing_begun_before_an_upload_does_not_undo_it(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    store(catalog, inode, "a", "e1")
    run(catalog.merge(ROOT, [], 50, DEFAULTS))
    assert told(catalog.sweep(ROOT, 50, large=False)) == []
    assert run(catalog.child(ROOT, "a")) is not None


def test_a_listing_begun_before_a_deletion_does_not_bring_it_back(catalog: Catalog) -> None:
    run(catalog.merge(ROOT, [listed("a")], 10, DEFAULTS))
    inode = run(catalog.child(ROOT, "a"))
    assert inode is not None
    run(catalog.remove(ROOT, "a", inode, keep=False))
    begun = time.time_ns()
    run(catalog.removed(run(catalog.pendings("", 10))))
    run(catalog.merge(ROOT, [listed("a")], begun, DEFAULTS))
    assert run(catalog.child(ROOT, "a")) is None
    run(catalog.merge(ROOT, [listed("a")], time.time_ns() + 1, DEFAULTS))
    assert run(catalog.child(ROOT, "a")) is not None


@pytest.mark.parametrize("deleted", [False, True])
def test_a_removed_directory_does_not_come_back_for_what_is_left_of_its_content(
    catalog: Catalog, deleted: bool
) -> None:
    run(catalog.merge(ROOT, [Listed("d", stat.S_IFDIR, 0, 1, None)], 10, DEFAULTS))
    directory = run(catalog.child(ROOT, "d"))
    run(catalog.merge(directory.ino, [listed("f")], 10, DEFAULTS))
    file = run(catalog.child(directory.ino, "f"))
    run(catalog.remove(directory.ino, "f", file, keep=False))
    run(catalog.remove(ROOT, "d", directory, keep=False))
    rows = {row.key: row for row in run(catalog.pendings("", 10))}
    run(catalog.removed([row for key, row in rows.items() if key != "d/f"]))
    begun = time.time_ns()
    if deleted:
        run(catalog.removed([rows["d/f"]]))
    run(catalog.merge(ROOT, [Listed("d", stat.S_IFDIR, 0, 1, None)], begun, DEFAULTS))
    assert run(catalog.child(ROOT, "d")) is None
    # Somebody else's: shown by a listing that begins when ours is gone.
    run(catalog.removed(run(catalog.pendings("", 10))))
    later = time.time_ns() + 1
    run(catalog.merge(ROOT, [Listed("d", stat.S_IFDIR, 0, 1, None)], later, DEFAULTS))
    assert run(catalog.child(ROOT, "d")) is not None


def settle(catalog: Catalog, inode: Inode, key: str) -> None:
    row = run(catalog.pending(key))
    assert row is not None
    run(catalog.settled(inode.ino, row, None))


def test_a_directory_whose_mark_is_stored_during_a_listing_stays(catalog: Catalog) -> None:
    directory = make(catalog, ROOT, "d", stat.S_IFDIR | 0o755)
    begun = time.time_ns()
    settle(catalog, directory, "d/")
    assert told(catalog.sweep(ROOT, begun, large=False)) == []


def test_a_name_that_was_pending_when_a_listing_passed_it_stays(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    store(catalog, inode, "a", "e1")
    run(catalog.dirty(inode.ino, "a", "e1"))
    begun = time.time_ns()
    run(catalog.merge(ROOT, [listed("a", "e1")], begun, DEFAULTS))
    with_nothing_done = run(catalog.pending("a"))
    assert with_nothing_done is not None
    run(catalog.removed([with_nothing_done]))
    assert told(catalog.sweep(ROOT, begun, large=False)) == []


def test_a_name_that_came_back_during_a_listing_stays(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    store(catalog, inode, "a", "e1")
    there = run(catalog.get(inode.ino))
    run(catalog.rename(there, ROOT, "a", ROOT, "b", displaced=None, keep_displaced=False))
    begun = time.time_ns()
    there = run(catalog.get(inode.ino))
    run(catalog.rename(there, ROOT, "b", ROOT, "a", displaced=None, keep_displaced=False))
    run(catalog.removed(run(catalog.pendings("", 10))))
    assert told(catalog.sweep(ROOT, begun, large=False)) == []


def test_a_file_that_was_open_when_a_listing_passed_it_stays(catalog: Catalog) -> None:
    run(catalog.merge(ROOT, [listed("a")], 10, DEFAULTS))
    inode = run(catalog.child(ROOT, "a"))
    assert inode is not None
    run(catalog.update(inode.ino, stage="s"))
    run(catalog.merge(ROOT, [listed("a", "theirs")], 20, DEFAULTS))
    run(catalog.update(inode.ino, stage=None))
    assert told(catalog.sweep(ROOT, 20, large=False)) == []


def test_a_directory_renamed_during_a_listing_stays(catalog: Catalog) -> None:
    run(catalog.merge(ROOT, [Listed("d", stat.S_IFDIR, 0, 1, None)], 10, DEFAULTS))
    directory = run(catalog.child(ROOT, "d"))
    assert directory is not None
    run(catalog.merge(directory.ino, [listed("f")], 10, DEFAULTS))
    file = run(catalog.child(directory.ino, "f"))
    assert file is not None
    run(catalog.rename(directory, ROOT, "d", ROOT, "n", displaced=None, keep_displaced=False))
    begun = time.time_ns()
    row = run(catalog.pending("n/f"))
    assert row is not None
    run(catalog.copy_begins("n/f"))
    assert run(catalog.stored(file.ino, row, "e2", copied=True))
    run(catalog.removed(run(catalog.pendings("", 10))))
    assert told(catalog.sweep(ROOT, begun, large=False)) == []
    assert told(catalog.vanished(ROOT, "n", begun)) == []
    assert told(catalog.vanished(ROOT, "n", time.time_ns())) is not None


def test_a_name_made_while_the_store_was_asked_for_it_stays(catalog: Catalog) -> None:
    begun = time.time_ns()
    store(catalog, make(catalog, ROOT, "a"), "a", "e1")
    assert told(catalog.vanished(ROOT, "a", begun)) == []
    assert told(catalog.vanished(ROOT, "a", time.time_ns())) is not None


def test_sweep_keeps_directories_with_changes_below(catalog: Catalog) -> None:
    run(catalog.merge(ROOT, [Listed("d", stat.S_IFDIR, 0, 1, None)], 1, DEFAULTS))
    directory = run(catalog.child(ROOT, "d"))
    assert directory is not None
    make(catalog, directory.ino, "f")
    assert told(catalog.sweep(ROOT, 5, large=False)) == []


def test_a_change_during_the_upload_keeps_the_key_pending(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    row = run(catalog.pending("a"))
    assert row is not None
    run(catalog.dirty(inode.ino, "a", "", size=5))
    run(catalog.stored(inode.ino, row, "e1"))
    assert pending(catalog) == {"a": "e1"}


def test_a_rename_during_the_copy_leaves_the_content_where_it_was(catalog: Catalog) -> None:
    inode = make(catalog, ROOT, "a")
    store(catalog, inode, "a", "e1")
    for old, new in (("a", "b"), ("b", "c")):
        run(catalog.rename(run(catalog.get(inode.ino)), ROOT, old, ROOT, new,
                           displaced=None, keep_displaced=False))  # fmt: skip
    row = run(catalog.pending("b"))
    assert row is not None
    assert not run(catalog.stored(inode.ino, row, "copy", copied=True))
    now = run(catalog.get(inode.ino))
    assert (now.origin, now.etag) == ("a", "e1")
    assert pending(catalog)["b"] == "copy"


def test_a_repeated_request_is_known(catalog: Catalog) -> None:
    inode = run(catalog.make(ROOT, "a", mode=stat.S_IFREG, uid=0, gid=0, request=77))
    assert run(catalog.completed(77)) == inode.ino
    assert run(catalog.completed(78)) is None


def test_answers_of_workers_that_died_are_forgotten_in_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "COMPLETED_KEPT", 20)
    monkeypatch.setattr(changes, "_TRIM", 5)
    request = 0
    for _ in range(10):  # one after the other on one connection to the kernel
        table = Catalog(tmp_path / "c.db", DEFAULTS)
        for _ in range(15):
            request += 2
            run(table.make(ROOT, f"{request}", mode=stat.S_IFREG, uid=0, gid=0, request=request))
        kept = [n for n in range(2, request + 2, 2) if run(table.completed(n)) is not None]
        assert len(kept) < 20 + 5
        assert kept == list(range(request - 2 * len(kept) + 2, request + 2, 2))
        table.close()


def test_inode_numbers_are_never_used_again(tmp_path: Path) -> None:
    table = Catalog(tmp_path / "c.db", DEFAULTS)
    first = make(table, ROOT, "a")
    run(table.remove(ROOT, "a", first, keep=False))
    table.close()
    table = Catalog(tmp_path / "c.db", DEFAULTS)
    assert make(table, ROOT, "a").ino > first.ino
    table.close()


def test_used_bytes_follow_every_change(catalog: Catalog) -> None:
    run(catalog.merge(ROOT, [listed("a", size=10), listed("b", size=5)], 10, DEFAULTS))
    assert catalog.used_bytes == 15
    a = run(catalog.child(ROOT, "a"))
    assert a is not None
    run(catalog.update(a.ino, size=100))
    assert catalog.used_bytes == 105 == catalog.used_now()
    run(catalog.remove(ROOT, "a", run(catalog.get(a.ino)), keep=True))
    assert catalog.used_bytes == 5 == catalog.used_now()


def is_open(path: Path) -> bool:
    """Whether this process has it open."""
    names = os.listdir("/proc/self/fd")
    return str(path) in {os.path.realpath(f"/proc/self/fd/{name}") for name in names}


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "c.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(CatalogError, match="schema version 99") as caught:
        Catalog(path, DEFAULTS)
    assert not is_open(path)  # while the traceback still has what opened it
    del caught


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(CatalogError, match=r"not a database: .*c\.db is damaged; move it"):
        Catalog(path, DEFAULTS)


def test_damage_found_later_says_how_to_go_on_too(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    catalog = Catalog(path, DEFAULTS)
    catalog.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096)
    with pytest.raises(CatalogError, match=r"query failed: .*c\.db is damaged; move it") as caught:
        Catalog(path, DEFAULTS)
    assert not is_open(path)  # while the traceback still has what opened it
    del caught


def test_a_catalog_is_new_until_it_has_had_a_name(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    for _ in range(2):  # also when its first worker died before it did anything
        catalog = Catalog(path, DEFAULTS)
        assert catalog.is_new
        catalog.close()
    catalog = Catalog(path, DEFAULTS)
    run(catalog.remove(ROOT, "f", make(catalog, ROOT, "f"), keep=False))
    catalog.close()
    catalog = Catalog(path, DEFAULTS)
    assert not catalog.is_new
    catalog.close()


def test_synced_syncs_the_journal(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power loss may take is what fdatasync was not called for."""
    synced: list[tuple[int, int]] = []
    wal = tmp_path / "catalog.db-wal"

    def fdatasync(fd: int) -> None:
        found = os.fstat(fd)
        synced.append((found.st_ino, found.st_size))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    make(catalog, ROOT, "file")
    run(catalog.synced())
    assert synced == [(wal.stat().st_ino, wal.stat().st_size)]
    assert synced[0][1] > 0
