"""The rows of inodes and names, and what of them is remembered.

One process alone uses a catalog, so a row that was read or written stays true until this class
writes it anew; every write of the two tables goes through here. A request mostly looks at rows that
the one before it looked at: remembering them saves some ten microseconds for each look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from csi_slayer.catalog.database import Database
from csi_slayer.catalog.inode import INSERT, INSERT_FOUND, SELECT, Found, Inode

ROWS_KEPT = 8192
"""Inodes remembered, about 5 MiB; when there are more, all are forgotten."""

ABSENT_KEPT = 1024
"""Names remembered that do not exist: a create asks twice."""

SMALL_DIRECTORY = 256
"""Names that a directory may have for all of them to be read when one is looked for that it has
not: whoever makes many files in it looks for each of them first."""

_GET = SELECT + "WHERE i.ino = ?"
_CHILD = SELECT + "JOIN dentries d ON d.ino = i.ino WHERE d.parent = ? AND d.name = ?"
_PLACE = (
    "SELECT d.parent, d.name FROM inodes i "
    "JOIN dentries d ON d.parent = i.parent AND d.place = i.place AND d.ino = i.ino "
    "WHERE i.ino = ?"
)
_NAMES = "SELECT name, ino FROM dentries WHERE parent = ? LIMIT ?"
_NAME = "INSERT INTO dentries(parent, name, ino, place) VALUES (?,?,?,?)"


class Rows:
    """Reads and writes single rows; the writing methods are for use inside transactions."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._rows: dict[int, Inode] = {}
        self._names: dict[tuple[int, str], int] = {}
        self._places: dict[int, tuple[int, str]] = {}
        self._absent: set[tuple[int, str]] = set()
        self._whole: dict[int, bool] = {}  # directories: whether all their names are in _names
        self._updates: dict[tuple[str, ...], str] = {}
        self._count: int | None = None
        self.origins = True
        """Whether any inode may have an ``origin``."""

    def rolled_back(self) -> None:
        """Look at the tables again: what was written is not there."""
        self.forget()
        self._count = None

    def forget(self) -> None:
        """Look at the tables again: there is too much to remember, or it changed much."""
        self._rows.clear()
        self._names.clear()
        self._places.clear()
        self._absent.clear()
        self._whole.clear()

    def remember(self, inode: Inode, name: str | None = None) -> None:
        """This is the inode's row and, if it has one, its name in ``inode.parent``."""
        if len(self._rows) >= ROWS_KEPT or len(self._places) >= ROWS_KEPT:
            self.forget()
        self._rows[inode.ino] = inode
        if name is not None:
            place = (inode.parent, name)
            self._names[place] = inode.ino
            self._places[inode.ino] = place

    def remember_listed(self, children: list[tuple[str, Inode]]) -> None:
        """As :meth:`remember` for a part of a directory, whose files somebody may open next."""
        if len(self._rows) + len(children) > ROWS_KEPT:
            self.forget()
        self._rows.update([(inode.ino, inode) for _name, inode in children])
        self._places.update([(inode.ino, (inode.parent, name)) for name, inode in children])

    # -- reading ---------------------------------------------------------------------------

    def find(self, ino: int) -> Inode | None:
        inode = self._rows.get(ino)
        if inode is None:
            row = self._db.one(_GET, (ino,))
            if row is None:
                return None
            inode = Inode._make(row)
            self.remember(inode)
        return inode

    def child(self, parent: int, name: str) -> Inode | None:
        place = (parent, name)
        ino = self._names.get(place)
        if ino is not None:
            return self.find(ino)
        if place in self._absent or self._whole.get(parent) or self._read_whole(parent, name):
            return None
        row = self._db.one(_CHILD, place)
        if row is None:
            if len(self._absent) >= ABSENT_KEPT:
                self._absent.clear()
            self._absent.add(place)
            return None
        inode = Inode._make(row)
        self.remember(inode, name)
        return inode

    def _read_whole(self, parent: int, name: str) -> bool:
        """Read all names of a directory that is small; whether ``name`` is known to be absent."""
        if parent in self._whole:
            return False
        found = self._db.all(_NAMES, (parent, SMALL_DIRECTORY + 1))
        whole = len(found) <= SMALL_DIRECTORY
        if len(self._names) + len(found) > ROWS_KEPT or len(self._whole) >= ABSENT_KEPT:
            self.forget()
        self._whole[parent] = whole
        if whole:
            self._names.update([((parent, name), ino) for name, ino in found])
        return whole and (parent, name) not in self._names

    def place(self, ino: int) -> tuple[int, str] | None:
        """Directory and name of an inode; None if it has no name."""
        place = self._places.get(ino)
        if place is None:
            row = self._db.one(_PLACE, (ino,))
            if row is None:
                return None
            if len(self._places) >= ROWS_KEPT:
                self.forget()
            place = self._places[ino] = (row[0], row[1])
        return place

    def count(self) -> int:
        """Names, and so inodes with a name, but for the root."""
        if self._count is None:  # once: of a million names it takes ten milliseconds
            row = self._db.one("SELECT count(*) FROM dentries")
            self._count = 0 if row is None else int(row[0])
        return self._count

    # -- writing ---------------------------------------------------------------------------

    def _named(self, more: int) -> None:
        if self._count is not None:
            self._count += more

    def add(self, inode: Inode, name: str) -> None:
        """A new inode under a name that is free."""
        self._db.execute(INSERT, inode)
        self._db.execute(_NAME, (inode.parent, name, inode.ino, inode.place))
        self._named(1)
        self._absent.discard((inode.parent, name))
        self.remember(inode, name)

    def add_many(self, parent: int, found: list[tuple[Found, str]]) -> None:
        """New inodes and their names in a directory, which are free."""
        self._db.executemany(INSERT_FOUND, [inode for inode, _name in found])
        self._db.executemany(
            _NAME, [(parent, name, inode.ino, inode.place) for inode, name in found]
        )
        self._named(len(found))
        self._absent.clear()
        self._whole.pop(parent, None)

    def set(self, ino: int, values: Mapping[str, Any]) -> None:
        """Change columns of an inode."""
        columns = tuple(values)
        sql = self._updates.get(columns)
        if sql is None:
            assignments = ",".join(f"{name} = ?" for name in columns)
            sql = self._updates[columns] = f"UPDATE inodes SET {assignments} WHERE ino = ?"
        self._db.execute(sql, (*values.values(), ino))
        if values.get("origin") is not None:
            self.origins = True
        inode = self._rows.get(ino)
        if inode is not None:
            self._rows[ino] = inode._replace(**values)

    def set_times(self, column: str, times: Iterable[tuple[int, int]]) -> None:
        """Change ``checked_ns`` or ``stamp`` of many, given as (time, ino)."""
        times = list(times)
        self._db.executemany(f"UPDATE inodes SET {column} = ? WHERE ino = ?", times)
        for _ns, ino in times:
            self._rows.pop(ino, None)

    def drop(self, ino: int) -> None:
        """Delete an inode's row; its name must be gone already."""
        self._db.execute("DELETE FROM inodes WHERE ino = ?", (ino,))
        self._rows.pop(ino, None)

    def name(self, parent: int, name: str, inode: Inode) -> None:
        """Give an inode a free name; its ``parent`` column is the caller's to set."""
        place = (parent, name)
        self._db.execute(_NAME, (parent, name, inode.ino, inode.place))
        self._named(1)
        self._absent.discard(place)
        self._names[place] = inode.ino
        self._places[inode.ino] = place

    def unname(self, parent: int, name: str) -> None:
        """Take a name away, which is there."""
        self._db.execute("DELETE FROM dentries WHERE parent = ? AND name = ?", (parent, name))
        self._named(-1)
        ino = self._names.pop((parent, name), None)
        if ino is None:
            self._places.clear()
        elif self._places.get(ino) == (parent, name):
            del self._places[ino]
