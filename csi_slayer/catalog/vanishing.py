"""Names that the store does not have any more.

Others may have removed very many at once. They are taken away some at a time: between two
transactions the event loop has a turn, and what is changed here meanwhile stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from csi_slayer.catalog.inode import SELECT, Defaults, Inode, Listed, Mark
from csi_slayer.catalog.listings import Listings
from csi_slayer.catalog.uses import Gone

STEP = 100
"""Names that one transaction looks at: some milliseconds. With them goes what is below them, but no
more than so many inodes and those of one name more."""

_STALE = SELECT.replace("SELECT ", "SELECT d.name,", 1) + (
    "JOIN dentries d ON d.ino = i.ino WHERE d.parent = ? AND d.place > ? AND d.place <= ? "
    "AND (i.checked_ns < ? OR i.checked_ns > ?) AND (i.stage IS NULL OR i.etag IS NOT NULL) "
    "ORDER BY d.place"
)
_UPTO = "SELECT place FROM dentries WHERE parent = ? AND place > ? ORDER BY place LIMIT 1 OFFSET ?"
_BELOW = (
    "WITH RECURSIVE below(ino) AS (VALUES(?) UNION ALL "
    "SELECT d.ino FROM dentries d JOIN below b ON d.parent = b.ino) "
    "SELECT count(*) FROM (SELECT 1 FROM below LIMIT ?)"
)
_LAST = (1 << 63) - 1


class Vanishing(Listings):
    """What is given was just taken away: whoever it concerns has to be told before anything else
    happens. It comes step by step, of some steps nothing."""

    async def sweep(self, parent: int, since_ns: int, *, large: bool) -> AsyncIterator[list[Gone]]:
        """The listing is complete: names that it did not show are gone. Gives those."""
        path = self.path_now(parent)
        base = path + "/" if path else ""
        after = 0
        while path is not None and self.path_now(parent) == path and after < _LAST:
            gone: list[Gone] = []
            crowds: list[tuple[str, Inode]] = []
            with self._db.transaction():
                if self._is_hidden(path, since_ns):
                    after = _LAST
                else:
                    after = self._sweep_some(base, parent, after, since_ns, gone, crowds)
                if after == _LAST and not crowds:
                    self._note_listed(parent, since_ns, large=large)
            yield gone
            for key, inode in crowds:
                async for some in self._thin_out(key, inode, since_ns):
                    yield some
            if after == _LAST and crowds and self.path_now(parent) == path:
                with self._db.transaction():
                    self._note_listed(parent, since_ns, large=large)
            elif after < _LAST:
                await asyncio.sleep(0)

    def _sweep_some(
        self, base: str, parent: int, after: int, since_ns: int,
        gone: list[Gone], crowds: list[tuple[str, Inode]],
    ) -> int:  # fmt: skip
        """Look at the names that come after that place; returns up to which."""
        row = self._db.one(_UPTO, (parent, after, STEP - 1))
        upto = _LAST if row is None else int(row[0])
        now_ns = max(since_ns, time.time_ns())
        for name, *columns in self._db.all(_STALE, (parent, after, upto, since_ns, now_ns)):
            inode = Inode._make(columns)
            if inode.is_dir and self.is_crowd(inode.ino):
                crowds.append((base + name, inode))
            elif not self._has_changes(base + name, inode, since_ns):
                gone += self._vanish(inode)
            if len(gone) > STEP:
                return inode.place
        return upto

    def _note_listed(self, ino: int, since_ns: int, *, large: bool) -> None:
        directory = self._rows.find(ino)
        if directory is not None:
            marks = Mark.LISTED | (Mark.LARGE if large else Mark.NONE)
            flags = directory.flags & ~Mark.LARGE | marks
            self._rows.set(ino, {"listed_ns": since_ns, "flags": flags})

    async def vanished(self, parent: int, name: str, since_ns: int) -> AsyncIterator[list[Gone]]:
        """One name was not in the store when that was asked at ``since_ns``: forget it unless it
        was changed here. Gives what is forgotten."""
        inode = self._rows.child(parent, name)
        if inode is None:
            return
        path = self.path_now(parent)
        key = f"{path}/{name}" if path else name
        if inode.is_dir and self.is_crowd(inode.ino):
            async for some in self._thin_out(key, inode, since_ns):
                yield some
        elif self._is_gone(key, inode, since_ns):
            with self._db.transaction():
                gone = self._vanish(inode)
            yield gone

    async def gave_way(
        self, inode: Inode, key: str, theirs: Listed, defaults: Defaults
    ) -> list[Gone] | None:
        """Somebody else's object has the key where an inode without bytes, as a link, was to be
        stored: it has the name, too, from now on. Returns what lost its name by that; None if the
        inode has another one by now, where it will be stored."""
        with self._db.transaction():
            if self.path_now(inode.ino) != key:
                return None
            gone = self._vanish(inode)
            self._unpend(key)
            # Not by a listing, which may have begun before: as newer knowledge than its.
            found = self._fresh(inode.parent, theirs, time.time_ns(), defaults)
            self._rows.add_many(inode.parent, [(found._replace(place=inode.place), theirs.name)])
            self.used_bytes += theirs.size
        return gone

    def _is_gone(self, key: str, inode: Inode, since_ns: int) -> bool:
        """Whether nothing newer is known of an inode than that it was not there."""
        if since_ns < inode.checked_ns <= time.time_ns():
            return False
        return not self._has_changes(key, inode, since_ns)

    def is_crowd(self, ino: int) -> bool:
        """Whether there is more below a directory than one transaction takes away."""
        row = self._db.one(_BELOW, (ino, STEP + 1))
        return row is not None and int(row[0]) > STEP

    async def _thin_out(self, key: str, top: Inode, since_ns: int) -> AsyncIterator[list[Gone]]:
        """Take away a directory and all below it, from the leaves on; what is changed here stays,
        with the directories above it."""
        stack = [] if self._is_hidden(key, since_ns) else [(top.ino, 0)]
        while stack and self.path_now(top.ino) == key:
            gone: list[Gone] = []
            left = STEP
            with self._db.transaction():
                while stack and left > 0:
                    left -= self._thin(key, stack, left, since_ns, gone)
            yield gone
            await asyncio.sleep(0)

    def _thin(
        self, top: str, stack: list[tuple[int, int]], most: int, since_ns: int, gone: list[Gone]
    ) -> int:
        """Go on with the directory on top of the ``stack``, after that place; returns how many
        names were looked at, at least one."""
        ino, after = stack.pop()
        path = self.path_now(ino)
        if path is None or not f"{path}/".startswith(f"{top}/"):
            return 1  # removed or moved meanwhile
        found = self._children(ino, after, most)
        below: list[tuple[int, int]] = []
        for name, inode in found:
            if inode.is_dir:
                below.append((inode.ino, 0))
            elif self._is_gone(f"{path}/{name}", inode, since_ns):
                gone += self._vanish(inode)
        if below or len(found) == most:
            stack += [(ino, found[-1][1].place), *reversed(below)]
            return len(found)
        directory = self._rows.find(ino)
        empty = self._db.one("SELECT 1 FROM dentries WHERE parent = ? LIMIT 1", (ino,)) is None
        if empty and directory is not None and self._is_gone(path, directory, since_ns):
            gone += self._vanish(directory)
        return len(found) + 1
