"""A disk that is full, as SQLite tells of it (measured on a tmpfs without room)."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT, Catalog, Defaults
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
