"""What became of requests to the store: each method is one transaction."""

from __future__ import annotations

import time
from typing import Any

from csi_slayer.catalog.database import Database
from csi_slayer.catalog.inode import Inode, Mark, Pending
from csi_slayer.catalog.partings import Partings

EMPTIES_KEPT = 4096
"""Empty files with a staged copy of which is remembered when the store took them; when there are
more, all are forgotten."""

_OLD = 1  # nanoseconds since 1970: known at some time, not now
_LOST = "lost"  # an etag that no object has: nobody knows which one there was


class Outcomes(Partings):
    """The table may have changed while the request was under way: what did stays."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._empties: dict[int, int] = {}

    async def stored(
        self, ino: int, row: Pending, etag: str, *, copied: bool = False, add: int = 0,
        clear: int = 0, onto: str | None = None, stored_ns: int = 0, **values: Any
    ) -> bool:  # fmt: skip
        """The object ``row.key`` now has this inode's content and attributes as version ``etag``,
        but for what was changed since the key was noted as ``row``.

        Returns whether that is the inode's place; not so if it was renamed or unlinked meanwhile.
        What was uploaded is then there and nowhere else, unless the inode's own place has been
        written since; what was ``copied`` still is where it was. ``onto``: the version of which it
        is a copy, if that was at the same key. ``stored_ns``: when the store answered, or the
        object's time, by the clock of the store; 0: not known.
        """
        with self._db.transaction():
            in_place = self.path_now(ino) == row.key
            noted, now = self._find_pending(row.key), self._rows.find(ino)
            if noted is None or noted.since_ns == row.since_ns:
                clear |= Mark.ATTRS_DIRTY
            if now is not None and now.stage is None:
                values["stamp"] = -stored_ns or None  # of an empty object: a listing tells it
            elif now is not None:
                self._remember_empty(ino, stored_ns if values.get("size", now.size) == 0 else 0)
            elsewhere = now is not None and now.etag is not None and now.origin is None
            if in_place or not copied:
                self._leave(ino, row.key)
            if in_place:
                values |= {"etag": etag, "origin": None, "checked_ns": time.time_ns()}
                self._update(ino, values, add, clear)
                self._settle(row, etag)
                return True
            if not copied and not elsewhere:
                self._update(ino, values | {"etag": etag, "origin": row.key}, add, clear)
            elif copied and now is not None and now.origin == row.key and now.etag == onto:
                self._update(ino, {"etag": etag})  # it was copied onto itself, and then renamed
            self._pend(row.key, etag)
            self._found_out(row.key, etag)
        return False

    def _remember_empty(self, ino: int, stored_ns: int) -> None:
        if len(self._empties) >= EMPTIES_KEPT:
            self._empties.clear()
        self._empties.pop(ino, None)
        if stored_ns:
            self._empties[ino] = stored_ns

    async def unstaged(self, ino: int) -> None:
        """The staged copy of an inode is no more than what the store has, and may go."""
        stored_ns = self._empties.pop(ino, 0)
        await self.update(ino, clear=Mark.OVERLAY, stage=None, stamp=-stored_ns or None)

    def _leave(self, ino: int, key: str) -> None:
        """The inode's content is at ``key`` now: a copy of it that was made aside may go."""
        old = self._rows.find(ino)
        if old is None or old.origin is None or old.origin == key:
            return
        if not self._is_pending(old.origin):
            self._pend(old.origin, old.etag)
        if old.etag != _LOST:
            self._vacated(old.origin, old.etag)

    async def relocated(self, inode: Inode, key: str, etag: str) -> None:
        """The content of an inode was copied aside, to the object ``key``, which is pending."""
        with self._db.transaction():
            now = self._rows.find(inode.ino)
            if now is None or (now.origin, now.etag) != (inode.origin, inode.etag):
                self._found_out(key, etag)  # closed or stored meanwhile: nobody needs the copy
            else:
                self._update(inode.ino, {"origin": key, "etag": etag})
                self._unpend(key)
                if inode.origin is not None:
                    self._vacated(inode.origin, inode.etag)

    async def torn(self, inode: Inode) -> None:
        """The staged copy of an inode is gone: it is what the store has in its place, of a version
        that is not known. Whoever looks next asks the store."""
        clear = Mark.OVERLAY | Mark.ATTRS_DIRTY | Mark.ATTRS_KNOWN | Mark.XATTRS
        values = {"etag": _LOST, "stage": None, "stamp": None, "checked_ns": 0}
        with self._db.transaction():
            self._update(inode.ino, values, 0, clear)
            self._update(inode.parent, {"listed_ns": _OLD})
            key = self.path_now(inode.ino)
            if key is not None and inode.origin is None:  # else it is still to be moved there
                self._unpend(key)

    async def disown(self, ino: int, origin: str) -> None:
        """The object ``origin``, which the inode's content was, is somebody else's now and stays,
        unless another inode has its name, which is still to be stored there (should that turn out
        to be gone, the other's stays); what is staged for the inode becomes an object of its
        own."""
        with self._db.transaction():
            if self.resolve_now(origin) is None:
                self._unpend(origin)
            else:
                self._only_known(origin)
            self._update(ino, {"etag": None, "origin": None, "stamp": None})
