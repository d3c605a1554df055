"""One SQLite connection: opening, transactions, and the only place that translates its errors."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from csi_slayer.catalog.fresh import RESERVE, create, reserve_wal
from csi_slayer.catalog.schema import (
    BUSY_TIMEOUT,
    FRAME_SIZE,
    MIGRATIONS,
    PAGE_SIZE,
    PRAGMAS,
    VERSION,
    WAL_LARGE,
    WAL_SMALL,
)
from csi_slayer.errors import CacheFull, CatalogError, SlayerError

Row = tuple[Any, ...]

# mxFrame of the WAL-index header, and nBackfill, how many of these frames are folded back, in the
# machine's order (https://sqlite.org/walformat.html).
_FRAMES_AT, _FOLDED_AT = 16, 96

FOLDS, FOLD_REST = 4, 256
"""Times that the WAL is folded back one after the other, and the pages of what was written
meanwhile that may be left to :meth:`Database.reset_wal`."""


class Transaction:
    """What is done within the ``with`` block is done as a whole or not at all."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._database.commit()
        else:
            self._database.roll_back(error)


class Database:
    """A catalog file. Used from one thread (the worker's event loop).

    Raises :class:`CatalogError` for whatever SQLite refuses, CacheFull (ENOSPC) where it finds no
    room on the disk; a database of another schema version
    or a damaged one is refused at opening with a message that says what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun: Callable[[], None] = lambda: None
        """Called at the beginning of each transaction."""
        self.rolled_back: Callable[[], None] = lambda: None
        """Called after each rollback: what was remembered of the table may not be true."""
        self._transaction = Transaction(self)
        self._wal_used = 0
        self._wal = self._index = -1
        self._asides: set[object] = set()  # one for each thread that has a connection
        try:
            fresh = not path.exists() or path.stat().st_size == 0
            if fresh:
                create(path)
            self._connection = sqlite3.connect(
                path, isolation_level=None, cached_statements=256, check_same_thread=False
            )
            try:
                self._prepare(fresh)
            except BaseException:
                self._connection.close()
                self._close_files()
                raise
        except OSError as error:
            reason = f"cannot open the catalog {path}: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CacheFull(reason) from error
            raise CatalogError(reason) from error
        except sqlite3.Error as error:
            raise self._failed(error, f"cannot open the catalog {path}") from error
        self.execute = self._connection.execute
        self.executemany = self._connection.executemany

    def _prepare(self, fresh: bool) -> None:
        for pragma in PRAGMAS:
            self._connection.execute(pragma)
        version = self._migrated()
        if version != VERSION:
            raise CatalogError(
                f"{self.path} has schema version {version}, this program needs {VERSION}: "
                "unmount with the program that wrote it, then remove the file"
            )
        self._reserve(fresh)
        # Kept: when the journal has to be synced, there may be no descriptor left; and SQLite's
        # locks, which are on its index, end when any descriptor of that is closed.
        self._wal = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._index = os.open(f"{self.path}-shm", os.O_RDONLY | os.O_CLOEXEC)

    def _migrated(self) -> int:
        """Bring the schema up to date; the version that it has now."""
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        while version in MIGRATIONS:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in MIGRATIONS[version]:
                self._connection.execute(statement)
            version += 1
            self._connection.execute(f"PRAGMA user_version = {version}")
            self._connection.execute("COMMIT")
        return version

    def _reserve(self, fresh: bool) -> None:
        """Write as much as RESERVE and take it back: what it leaves in the database are free
        pages, and a WAL whose blocks the next transactions overwrite. With them names can be
        learned, and files be removed, while somebody has filled the disk."""
        if fresh:  # it has the free pages
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("ROLLBACK")  # now there is a WAL
            reserve_wal(self.path)
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("CREATE TABLE reserve(room)")
            self._connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (RESERVE,))
            self._connection.execute("DROP TABLE reserve")
            self._connection.execute("COMMIT")
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _translated(self, error: sqlite3.Error, what: str) -> SlayerError:
        # A ProgrammingError (the connection is closed) has no code.
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            # The WAL may have used up its blocks: let the next transaction begin it anew. That
            # fails, too, where the database would have to grow.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            return CacheFull(f"{what}: the disk of the catalog is full")
        return self._failed(error, what)

    def _failed(self, error: sqlite3.Error, what: str) -> CatalogError:
        advice = _advice(error)
        return CatalogError(f"{what}: {error}{advice and f': {self.path}{advice}'}")

    def one(self, sql: str, args: Sequence[object] = ()) -> Row | None:
        """The first row, or None."""
        try:
            row: Row | None = self._connection.execute(sql, args).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error, "catalog query failed") from error
        return row

    def all(self, sql: str, args: Sequence[object] = ()) -> list[Row]:
        """All rows; the caller bounds their number in the query."""
        try:
            return self._connection.execute(sql, args).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error, "catalog query failed") from error

    def each(self, sql: str, args: Sequence[object] = ()) -> Iterator[Row]:
        """Rows one by one, for results that need not fit in memory."""
        try:
            yield from self._connection.execute(sql, args)
        except sqlite3.Error as error:
            raise self._failed(error, "catalog query failed") from error

    def aside(self, sql: str, args: Sequence[object] = ()) -> list[Row]:
        """The rows of what takes long, as last committed. Blocks: for a thread."""
        try:
            with self._connected_aside() as connection:
                return connection.execute(sql, args).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error, "catalog query failed") from error

    @contextlib.contextmanager
    def _connected_aside(self) -> Iterator[sqlite3.Connection]:
        """A connection for a thread."""
        token = object()
        self._asides.add(token)
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
            try:
                yield connection
            finally:
                connection.close()
        finally:
            self._asides.discard(token)

    def used(self) -> int:
        """Bytes of the tables; not of the journal, nor of pages that are free."""
        pages = "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count"
        row = self.one(pages)
        return 0 if row is None else int(row[0]) * PAGE_SIZE

    def transaction(self) -> Transaction:
        """All or nothing. No await may happen inside."""
        return self._transaction

    def begin(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._translated(error, "catalog change failed") from error
        self.begun()

    def commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.roll_back()
            raise self._translated(error, "catalog change failed") from error

    def roll_back(self, error: BaseException | None = None) -> None:
        """Undo what was changed because of ``error``; raises it translated if it is SQLite's."""
        if self._connection.in_transaction:  # a full disk has rolled it back already
            self._connection.execute("ROLLBACK")
        self.rolled_back()
        if isinstance(error, sqlite3.Error):
            raise self._translated(error, "catalog change failed") from error

    def alone(self, change: Callable[[], None]) -> None:
        """A change of one statement, which is a transaction by itself."""
        try:
            change()
        except sqlite3.Error as error:
            raise self._translated(error, "catalog change failed") from error

    def checkpoint(self) -> None:
        """Fold the WAL back if much has been written to it. Blocks on fsync: call it from a thread,
        often.

        Never waits for the writer, nor makes it wait; so under a constant load the file itself
        grows on, until :meth:`reset_wal` lets it start from its beginning. But whoever writes first
        after all was folded back begins the file anew, and waits for the disk.
        """
        self._wal_used = self.wal_written()
        if self._wal_used < WAL_SMALL and self.wal_size() < WAL_LARGE:
            return
        frames = folded = 0
        try:
            with self._connected_aside() as connection:
                for _ in range(FOLDS):
                    before = frames
                    done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    _, frames, folded = done
                    if frames - before <= FOLD_REST:
                        break
        except sqlite3.Error as error:
            raise CatalogError(f"folding the catalog's WAL back failed: {error}") from error
        # Whoever reads aside may have kept much of it: left to the next time, not to reset_wal.
        self._wal_used = frames * FRAME_SIZE if frames - folded <= FOLD_REST else WAL_SMALL

    def wal_size(self) -> int:
        """Bytes of the journal's file."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def wal_written(self) -> int:
        """Bytes that were written to the journal since it was begun anew. Raises CatalogError."""
        return self._wal_entry(_FRAMES_AT)

    def _wal_entry(self, at: int) -> int:
        """A number of frames in the index of the WAL, as bytes."""
        try:
            frames = os.pread(self._index, 4, at)
        except OSError as error:
            raise CatalogError(f"reading the index of the WAL failed: {error.strerror}") from error
        return int.from_bytes(frames, sys.byteorder) * FRAME_SIZE

    def sync_wal(self) -> None:
        """All that was committed survives a power loss after this. Blocks on fsync, for a thread.

        With ``synchronous=NORMAL`` a commit is written to the WAL, not synced; folding back syncs
        the database first, so that what is not in a synced WAL is in a synced database.
        """
        try:
            os.fdatasync(self._wal)
        except OSError as error:
            raise CatalogError(f"syncing the catalog's WAL failed: {error.strerror}") from error

    def reset_wal(self) -> None:
        """Just after :meth:`checkpoint`, on the writer's own thread: fold the little rest back, so
        that the next write begins the file anew. The file is cut, which takes a millisecond for
        two MiB, when the load is over, and nothing is left to fold back, which would wait for the
        disk. Whoever reads aside is not waited for."""
        if self._wal_used >= WAL_LARGE:
            mode = "RESTART"
        elif (
            self._wal_used < WAL_SMALL
            and self.wal_size() >= WAL_LARGE
            and self.wal_written() == self._wal_entry(_FOLDED_AT)
        ):
            mode = "TRUNCATE"
        else:
            return
        self.one("PRAGMA busy_timeout=0")
        try:
            self.one(f"PRAGMA wal_checkpoint({mode})")
        finally:
            self.one(f"PRAGMA busy_timeout={BUSY_TIMEOUT}")

    def close(self) -> None:
        """Fold the WAL back and close. On a full disk the WAL stays as it is, and nothing is lost:
        the next one to open the database has it."""
        try:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._connection.close()
                self._close_files()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                raise CatalogError(f"closing the catalog failed: {error}") from error

    def _close_files(self) -> None:
        if self._asides:
            return  # their locks would end with it: the files are closed with the process
        for fd in (self._wal, self._index):
            if fd >= 0:
                os.close(fd)
        self._wal = self._index = -1


def _advice(error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    ):
        return ""
    return (
        " is damaged; move it and its -wal away to begin a new one: what was written and not"
        " uploaded is then kept without its name in the conflicts of the cache directory"
    )
