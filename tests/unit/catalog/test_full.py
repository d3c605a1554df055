"""A disk that is full, as SQLite tells of it (measured on a tmpfs without room)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT, Catalog, Defaults, Listed
from csi_slayer.catalog.fresh import RESERVE
from csi_slayer.catalog.uses import Merged
from csi_slayer.errors import CacheFull, CatalogError

DEFAULTS = Defaults(0, 0, 0o644, 0o755)


class Disk(sqlite3.Connection):
    """``refused`` are beginnings of statements that find no room, or get another error."""

    refused: tuple[str, ...] = ()
    code = sqlite3.SQLITE_FULL

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql.startswith(Disk.refused):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = Disk.code
            raise error
        return super().execute(sql, *args)


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.setattr(Disk, "refused", ())
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **values: connect(*args, factory=Disk, **values)
    )
    return Catalog(tmp_path / "catalog.db", DEFAULTS)


async def make(catalog: Catalog, name: str) -> None:
    await catalog.make(ROOT, name, mode=stat.S_IFREG | 0o644, uid=0, gid=0, size=7)


@pytest.mark.parametrize("refused", ["BEGIN", "INSERT INTO dentries", "COMMIT"])
@pytest.mark.parametrize("and_then", ["", "PRAGMA wal_checkpoint"])
def test_a_change_has_not_happened_and_is_refused_with_enospc(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, refused: str, and_then: str
) -> None:
    """Also where the WAL cannot be folded back either."""
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "refused", (refused, and_then or refused))
        for _ in range(2):
            with pytest.raises(CacheFull) as caught:
                asyncio.run(make(catalog, "f"))
            assert caught.value.errno == errno.ENOSPC
    assert catalog.used_bytes == 0
    assert asyncio.run(catalog.children(ROOT, 0, 9)) == []
    asyncio.run(make(catalog, "f"))
    assert catalog.used_bytes == 7
    catalog.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
def test_it_is_closed_all_the_same(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    asyncio.run(make(catalog, "f"))
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "refused", ("PRAGMA wal_checkpoint",))
        patch.setattr(Disk, "code", code)
        if code == sqlite3.SQLITE_FULL:
            catalog.close()
        else:
            with pytest.raises(CatalogError, match="closing the catalog failed"):
                catalog.close()
    with pytest.raises(CatalogError):
        asyncio.run(make(catalog, "g"))
    again = Catalog(tmp_path / "catalog.db", DEFAULTS)
    assert [name for name, _inode in asyncio.run(again.children(ROOT, 0, 9))] == ["f"]
    again.close()


def test_names_that_nobody_knew_are_refused_and_all_else_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the cache has hardly any room, and the catalog is not small."""

    def room() -> None:
        raise CacheFull("hardly any room")

    def listed(name: str, etag: str) -> Listed:
        return Listed(name, stat.S_IFREG, 5, 1000, etag)

    def merge(*found: Listed) -> Merged:
        return asyncio.run(catalog.merge(ROOT, found, time.time_ns(), DEFAULTS))

    with contextlib.closing(Catalog(tmp_path / "catalog.db", DEFAULTS, room)) as catalog:
        assert merge(listed("known", "e1")).added, "the catalog is small"
        monkeypatch.setattr("csi_slayer.catalog.listings.SURE", 0)
        used = catalog.used_bytes
        with pytest.raises(CacheFull):
            merge(listed("known", "e2"), listed("unknown", "e1"))
        known = asyncio.run(catalog.child(ROOT, "known"))
        assert known is not None and known.etag == "e1"
        assert asyncio.run(catalog.child(ROOT, "unknown")) is None
        assert catalog.used_bytes == used
        assert merge(listed("known", "e3")).changed == [known.ino]
        assert merge(Listed("known", stat.S_IFDIR, 0, 1000, None)).gone[0].inode.ino == known.ino
        assert merge(listed("known", "e4")).gone[0].inode.is_dir
        known = asyncio.run(catalog.child(ROOT, "known"))
        assert known is not None and known.etag == "e4"
        made = asyncio.run(catalog.make(ROOT, "own", mode=stat.S_IFREG, uid=0, gid=0))
        asyncio.run(catalog.remove(ROOT, "known", known, keep=False))
        row = asyncio.run(catalog.pending("own"))
        assert row is not None
        assert asyncio.run(catalog.stored(made.ino, row, "e1"))


def test_the_bytes_of_the_tables_are_known(tmp_path: Path) -> None:
    with contextlib.closing(Catalog(tmp_path / "catalog.db", DEFAULTS)) as catalog:
        before = catalog._db.used()
        assert before < RESERVE, "what is reserved is free"
        found = [Listed(f"{n:0200}", stat.S_IFREG, 5, 1000, "e") for n in range(1000)]
        asyncio.run(catalog.merge(ROOT, found, 1, DEFAULTS))
        assert 400_000 < catalog._db.used() - before < 1_200_000
