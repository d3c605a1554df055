"""Questions to the inode table."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence

from csi_slayer.catalog.database import Database
from csi_slayer.catalog.inode import SELECT, UNREAD, Inode, Mark, Name
from csi_slayer.catalog.rows import ROWS_KEPT, Rows
from csi_slayer.catalog.schema import ROOT
from csi_slayer.errors import FsError

_ANY_ORIGIN = "SELECT 1 FROM inodes INDEXED BY inodes_origin WHERE origin IS NOT NULL LIMIT 1"
_ORIGINS_AMONG = (
    "SELECT j.value FROM json_each(?) j "
    "WHERE EXISTS (SELECT 1 FROM inodes i WHERE i.origin = j.value)"
)
_NEXT_IN = (
    "JOIN dentries d ON d.ino = i.ino WHERE d.parent = ? AND d.place > ? ORDER BY d.place LIMIT ?"
)
_CHILDREN = SELECT.replace("SELECT ", "SELECT d.name,", 1) + _NEXT_IN
_NAMES = f"SELECT d.name, i.ino, i.place, i.mode, i.size, {UNREAD} FROM inodes i {_NEXT_IN}"
_OLDEST = (
    "SELECT min(checked_ns), count(*) FROM (SELECT i.checked_ns FROM dentries d "
    "JOIN inodes i ON i.ino = d.ino WHERE d.parent = ? LIMIT ?)"
)

LISTED_KEPT = ROWS_KEPT // 8
"""Rows of one look at a directory that are remembered; of more, none."""

PATHS_KEPT = 4096
"""Directories whose paths are remembered."""


class Reads:
    """The reading half of the catalog; methods are coroutines that do not suspend here."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._rows = Rows(database)
        # Paths of directories, both ways: what every look at a file's key needs. Emptied
        # whenever a directory is moved or removed.
        self._paths: dict[int, str] = {}
        self._inos: dict[str, int] = {}
        database.rolled_back = self._forget

    def _forget(self) -> None:
        """A transaction was rolled back: what was remembered may not be true."""
        self._rows.rolled_back()
        self._paths_changed()

    async def get(self, ino: int) -> Inode:
        """Raises FsError(ESTALE) for an inode that is gone."""
        inode = self._rows.find(ino)
        if inode is None:
            raise FsError(errno.ESTALE)
        return inode

    async def find(self, ino: int) -> Inode | None:
        return self._rows.find(ino)

    async def child(self, parent: int, name: str) -> Inode | None:
        return self._rows.child(parent, name)

    async def children(self, parent: int, after: int, limit: int) -> list[tuple[str, Inode]]:
        """Names in the order of their places, of places greater than ``after``."""
        found = self._children(parent, after, limit)
        if len(found) <= LISTED_KEPT:
            self._rows.remember_listed(found)
        return found

    def _children(self, parent: int, after: int, limit: int) -> list[tuple[str, Inode]]:
        rows = self._db.all(_CHILDREN, (parent, after, limit))
        return [(row[0], Inode._make(row[1:])) for row in rows]

    async def names(self, parent: int, after: int, limit: int) -> list[Name]:
        """As :meth:`children`, for who wants the names alone: nothing is remembered."""
        return [Name._make(row) for row in self._db.all(_NAMES, (parent, after, limit))]

    async def listed(self, inos: range) -> list[int]:
        """Those of these inodes that are directories whose names were all read."""
        rows = self._db.all(
            "SELECT ino FROM inodes WHERE ino BETWEEN ? AND ? AND listed_ns",
            (inos.start, inos.stop - 1),
        )
        return [row[0] for row in rows]

    async def is_empty(self, ino: int) -> bool:
        return self._db.one("SELECT 1 FROM dentries WHERE parent = ? LIMIT 1", (ino,)) is None

    async def oldest(self, ino: int, most: int) -> int | None:
        """When that of a directory's names was last checked which was so longest ago; 0 where
        there are more than ``most``, None where there is none."""
        row = self._db.one(_OLDEST, (ino, most + 1))
        assert row is not None
        return 0 if row[1] > most else row[0]

    def name_of(self, ino: int, parent: int) -> str | None:
        place = self._rows.place(ino)
        return place[1] if place is not None and place[0] == parent else None

    async def path(self, ino: int) -> str | None:
        """The inode's path below the root without slashes at the ends, None if it has none
        (an unlinked inode). The root is ''."""
        return self.path_now(ino)

    def path_now(self, ino: int) -> str | None:
        """As :meth:`path`, for use inside transactions."""
        if ino == ROOT:
            return ""
        place = self._rows.place(ino)
        if place is None:
            return None
        base = self._directory_path(place[0])
        return None if base is None else base + place[1]

    def _directory_path(self, ino: int) -> str | None:
        """A directory's path with a slash at its end; '' for the root."""
        # Step by step: a key has room for more directories than Python for nested calls.
        below: list[tuple[int, str]] = []
        while (path := self._paths.get(ino)) is None and ino != ROOT:
            place = self._rows.place(ino)
            if place is None:
                return None
            below.append((ino, place[1]))
            ino = place[0]
        path = path or ""
        for directory, name in reversed(below):
            path += name + "/"
            self._remember_path(directory, path)
        return path

    def _remember_path(self, ino: int, path: str) -> None:
        if len(self._paths) >= PATHS_KEPT:
            self._paths_changed()
        self._paths[ino] = path
        self._inos[path] = ino

    def _paths_changed(self) -> None:
        """A directory got another path or none."""
        self._paths.clear()
        self._inos.clear()

    async def resolve(self, key: str) -> Inode | None:
        """The inode at a path; a key with a trailing slash finds directories only."""
        return self.resolve_now(key)

    def resolve_now(self, key: str) -> Inode | None:
        """As :meth:`resolve`, for use inside transactions."""
        if key == "":
            return self._rows.find(ROOT)
        base, _slash, name = key.rstrip("/").rpartition("/")
        parent = self._directory(base + "/" if base else "")
        inode = None if parent is None else self._rows.child(parent, name)
        return inode if inode is not None and inode.is_dir == key.endswith("/") else None

    def _directory(self, path: str) -> int | None:
        """The inode of a directory's path (with a slash at its end)."""
        known = path
        below: list[str] = []
        while known and known not in self._inos:
            base, _slash, name = known[:-1].rpartition("/")
            below.append(name)
            known = base + "/" if base else ""
        ino = self._inos[known] if known else ROOT
        for name in reversed(below):
            inode = self._rows.child(ino, name)
            if inode is None or not inode.is_dir:
                return None
            known += name + "/"
            ino = inode.ino
            self._remember_path(ino, known)
        return ino

    async def by_origin(self, key: str) -> list[Inode]:
        """Inodes whose content still is in the object ``key`` though it is not their path."""
        if not self._rows.origins:
            return []
        found = self._db.all(SELECT + "WHERE i.origin = ? LIMIT 64", (key,))
        if not found:
            self._rows.origins = self._db.one(_ANY_ORIGIN) is not None
        return [Inode._make(row) for row in found]

    async def origins_among(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys for which :meth:`by_origin` finds an inode."""
        if not (keys and self._rows.origins):
            return set()
        return {row[0] for row in self._db.all(_ORIGINS_AMONG, (json.dumps(keys),))}

    def each_staged(self) -> Iterator[Inode]:
        """Inodes with a staged copy, for recovery and status."""
        for row in self._db.all(SELECT + "WHERE i.stage IS NOT NULL"):
            yield Inode._make(row)

    def each_orphan(self) -> Iterator[Inode]:
        """Unlinked inodes that were still open."""
        for row in self._db.all(SELECT + "WHERE i.nlink = 0"):
            yield Inode._make(row)

    async def completed(self, request: int) -> int | None:
        """The inode that a resent request made (0 where none), None if it was never done."""
        row = self._db.one("SELECT ino FROM completed WHERE request = ?", (request,))
        return None if row is None else int(row[0])

    async def xattr(self, ino: int, name: bytes) -> bytes | None:
        inode = self._rows.find(ino)
        if inode is None or not inode.flags & Mark.XATTRS:
            return None  # what the kernel asks before the first write to each new file
        row = self._db.one("SELECT value FROM xattrs WHERE ino = ? AND name = ?", (ino, name))
        return None if row is None else bytes(row[0])

    async def xattrs(self, ino: int) -> dict[bytes, bytes]:
        rows = self._db.all("SELECT name, value FROM xattrs WHERE ino = ?", (ino,))
        return {bytes(name): bytes(value) for name, value in rows}

    async def count(self) -> int:
        """How many inodes have a name, or are the root."""
        return self._rows.count() + 1

    def used_now(self) -> int:
        """Sum of the sizes of all linked files, bytes."""
        row = self._db.one("SELECT coalesce(sum(size), 0) FROM inodes WHERE nlink > 0")
        return 0 if row is None else int(row[0])
