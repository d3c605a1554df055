"""The WAL of a catalog that is written without a pause, and what reads it aside."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.catalog import Catalog, Defaults, database
from csi_slayer.catalog.database import Database
from csi_slayer.catalog.schema import BUSY_TIMEOUT, FRAME_SIZE


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(database, "WAL_SMALL", 16 * FRAME_SIZE)
    monkeypatch.setattr(database, "WAL_LARGE", 64 * FRAME_SIZE)
    made = Database(tmp_path / "catalog.db")
    made.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    yield made
    made.close()


def write(table: Database, pages: int) -> None:
    with table.transaction():
        table.execute("INSERT INTO meta VALUES (hex(randomblob(8)), ?)", (bytes(pages * 2048),))


def fold(table: Database) -> None:
    table.checkpoint()
    table.reset_wal()


def test_a_busy_catalogs_journal_is_begun_anew_and_cut_when_the_load_is_over(
    table: Database,
) -> None:
    """Cutting a file takes a millisecond for two MiB, and it was done for each 64 MiB written."""
    write(table, 100)
    size = table.wal_size()
    for _ in range(3):
        fold(table)
        assert table.wal_size() == size
        write(table, 90)
        assert table.wal_size() == size, "written from its beginning"
    fold(table)
    write(table, 1)
    fold(table)
    assert table.wal_size() == 0


def test_a_journal_is_not_cut_while_something_is_left_to_fold_back(table: Database) -> None:
    """That waits for the disk twice, 1.6 s on one of 43 MB/s that others wrote to."""
    write(table, 100)
    fold(table)
    write(table, 1)
    table.checkpoint()
    write(table, 1)
    written, size = table.wal_written(), table.wal_size()
    table.reset_wal()
    assert (table.wal_written(), table.wal_size()) == (written, size)
    fold(table)
    assert table.wal_size() == 0


def test_a_journal_that_was_long_is_not_begun_anew_for_little(
    table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes first after all was folded back waits for the disk, on the event loop."""
    write(table, 40)
    fold(table)
    write(table, 1)
    written = table.wal_written()
    assert 0 < written < 16 * FRAME_SIZE < table.wal_size() < 64 * FRAME_SIZE
    monkeypatch.setattr(sqlite3, "connect", None)
    for _ in range(3):
        fold(table)
        write(table, 1)
        assert table.wal_written() > written, "written on, not from its beginning"
        written = table.wal_written()
    monkeypatch.undo()


def test_what_is_written_while_the_journal_is_folded_back_is_folded_by_the_thread(
    table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is left to the event loop, which waits for the disk as well."""
    write(table, 100)
    looks = iter([(0, 5000, 5000), (0, 7000, 7000), (0, 7200, 7200)])

    class Busy(sqlite3.Connection):
        def execute(self, sql: str, *_: object) -> sqlite3.Cursor:  # type: ignore[override]
            return super().execute("SELECT ?, ?, ?", next(looks))

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Busy)
    )
    table.checkpoint()
    assert next(looks, None) is None


def test_a_reader_aside_is_not_waited_for(table: Database) -> None:
    write(table, 100)
    reader = sqlite3.connect(table.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM meta").fetchone()
    write(table, 1)
    fold(table)
    write(table, 1)
    assert table.wal_size() > 101 * FRAME_SIZE, "not begun anew yet"
    reader.close()
    assert table.one("PRAGMA busy_timeout") == (BUSY_TIMEOUT,)


def test_what_a_reader_aside_kept_from_being_folded_back_is_left_to_the_next_time(
    table: Database,
) -> None:
    """And not to the event loop, which 150 MiB held for a fifth of a second."""
    reader = sqlite3.connect(table.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM meta").fetchone()
    write(table, 300)
    table.checkpoint()
    reader.close()
    table.reset_wal()
    size = table.wal_size()
    write(table, 1)
    assert table.wal_size() > size, "not begun anew yet"
    fold(table)
    size = table.wal_size()
    write(table, 1)
    assert table.wal_size() == size


def test_a_reader_aside_keeps_its_locks_when_the_catalog_is_closed(tmp_path: Path) -> None:
    """POSIX has them end with any descriptor of their file that the process closes."""
    table = Database(tmp_path / "catalog.db")
    table.one("PRAGMA busy_timeout=0")
    with table._connected_aside() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM meta").fetchone()
        table.close()
        others = (
            "import sqlite3, sys; others = sqlite3.connect(sys.argv[1], timeout=0)\n"
            "with others: others.execute('CREATE TABLE theirs(x)')\n"
            "print(*others.execute('PRAGMA wal_checkpoint(RESTART)').fetchone())"
        )
        call = [sys.executable, "-c", others, str(table.path)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout.startswith("1 "), "busy: the reader is in the way"
    table._close_files()


def test_pending_keys_are_counted_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two million each count held the event loop for a fifth of a second, twice every two
    seconds and, while an unmounted volume was uploaded, every twentieth of one."""
    catalog = Catalog(tmp_path / "catalog.db", Defaults(0, 0, 0o644, 0o755))
    threads = set()
    aside = Database.aside

    def noted(self: Database, sql: str) -> object:
        threads.add(threading.get_ident())
        return aside(self, sql)

    monkeypatch.setattr(Database, "aside", noted)

    async def look() -> tuple[bool, int, int | None]:
        return (
            await catalog.any_pending(),
            await catalog.pending_count(),
            await catalog.pending_oldest(),
        )

    async def count() -> None:
        assert await look() == (False, 0, None)
        await catalog.dirty(1, "a", "")
        first = catalog.changed_ns
        await catalog.dirty(1, "b", "")
        assert await look() == (True, 2, first)

    asyncio.run(count())
    catalog.close()
    assert threading.get_ident() not in threads
    assert threads


def test_a_key_that_fails_is_found_among_all_that_wait(tmp_path: Path) -> None:
    """It was looked for among the first thousand."""
    catalog = Catalog(tmp_path / "catalog.db", Defaults(0, 0, 0o644, 0o755))

    async def look() -> list[tuple[str, int, str]]:
        for number in range(1100):
            await catalog.dirty(1, f"a{number}", "")
        assert await catalog.failing(9) == []
        for key in ("z\u00fc", "y'\"", "x"):
            await catalog.dirty(1, key, "")
            await catalog.pending_failed(key, "the store says: no")
        return await catalog.failing(2)

    found = asyncio.run(look())
    catalog.close()
    assert found == [("x", 1, "the store says: no"), ("y'\"", 1, "the store says: no")]
