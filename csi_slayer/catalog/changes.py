"""Changes of names and attributes: each method is one transaction.

A change of the name space notes in the same transaction which keys may have to change in the
store, and, where ``request`` is given, that this kernel request has been done.
"""

from __future__ import annotations

import errno
import stat
import time
from collections import deque
from collections.abc import Container
from typing import Any, NamedTuple

from csi_slayer.catalog.inode import Inode, Mark
from csi_slayer.catalog.moving import directories, move_files, note_files
from csi_slayer.catalog.pendings import Pendings
from csi_slayer.catalog.schema import ROOT
from csi_slayer.errors import FsError

COMPLETED_KEPT = 4096
"""Answers kept for resent requests. A reply is written as soon as its handler ends, so only
requests of the last instant can be resent; this is orders of magnitude more."""

_TRIM = 512
_INO_STEP = 4096


class Removed(NamedTuple):
    """What a removal left behind: the inode as it was, kept as an orphan or deleted."""

    inode: Inode
    kept: bool


class Changes(Pendings):
    """The writing half of the catalog."""

    used_bytes: int
    _used_before: int
    _next_ino: int
    _last_ino: int
    _recent: deque[int]

    def _start(self) -> None:
        self.used_bytes = self._used_before = self.used_now()
        self._db.begun = self._begun
        self._next_ino = self._last_ino = 0
        rows = self._db.all("SELECT request FROM completed ORDER BY request")
        self._recent = deque(row[0] for row in rows)  # earlier workers': the kernel counts on

    @property
    def next_ino(self) -> int:
        """No inode has this number or a greater one yet."""
        row = self._db.one("SELECT value FROM meta WHERE name = 'next_ino'")
        return ROOT + 1 if row is None else int(row[0])

    def _new_ino(self) -> int:
        """An inode number never used before in this catalog."""
        if self._next_ino == self._last_ino:
            self._next_ino = self.next_ino
            self._last_ino = self._next_ino + _INO_STEP
            self._db.execute(
                "INSERT OR REPLACE INTO meta VALUES ('next_ino', ?)", (self._last_ino,)
            )
        self._next_ino += 1
        return self._next_ino - 1

    def _begun(self) -> None:
        self._used_before = self.used_bytes

    def _forget(self) -> None:
        super()._forget()
        self._next_ino = self._last_ino = 0  # the numbers it reserved may not be on disk
        self.used_bytes = self._used_before

    def _complete(self, request: int | None, ino: int) -> None:
        if request is None:
            return
        self._db.execute(
            "INSERT OR REPLACE INTO completed(request, ino) VALUES (?,?)", (request, ino)
        )
        self._recent.append(request)
        if len(self._recent) >= COMPLETED_KEPT + _TRIM:
            old = [(self._recent.popleft(),) for _ in range(_TRIM)]
            self._db.executemany("DELETE FROM completed WHERE request = ?", old)

    async def forget_completed(self) -> None:
        """A new kernel connection counts its requests from the start again."""
        with self._db.transaction():
            self._db.execute("DELETE FROM completed")
            self._recent.clear()

    def _touch(self, ino: int, now: int) -> None:
        self._rows.set(ino, {"mtime_ns": now, "ctime_ns": now})

    def _key(self, parent: int, name: str, *, directory: bool = False) -> str:
        base = self._directory_path(parent)
        if base is None:  # somebody works in it still
            raise FsError(errno.ENOENT, "the directory is gone")
        key = base + name
        return key + "/" if directory else key

    async def make(
        self,
        parent: int,
        name: str,
        *,
        mode: int,
        uid: int,
        gid: int,
        target: str | None = None,
        stage: str | None = None,
        size: int = 0,
        request: int | None = None,
    ) -> Inode:
        """A new inode under a new name; the caller knows that the name is free."""
        now = time.time_ns()
        directory = stat.S_ISDIR(mode)
        flags = Mark.ATTRS_KNOWN | Mark.ATTRS_DIRTY
        if directory:
            flags |= Mark.MARKER | Mark.LISTED
        if stage is not None:
            flags |= Mark.UNSYNCED
        with self._db.transaction():
            ino = self._new_ino()
            inode = Inode(
                ino, parent, mode, nlink=2 if directory else 1, uid=uid, gid=gid, rdev=0, size=size,
                atime_ns=now, mtime_ns=now, ctime_ns=now, etag=None, origin=None, stage=stage,
                stamp=None, target=target, flags=int(flags), checked_ns=now,
                listed_ns=now if directory else 0, place=ino, lost=None,
            )  # fmt: skip
            self._rows.add(inode, name)
            self._pend(self._key(parent, name, directory=directory), "")
            self._touch(parent, now)
            self._complete(request, inode.ino)
        self.used_bytes += size
        return inode

    def _displace(self, inode: Inode, key: str, *, keep: bool) -> None:
        """The name ``key`` no longer is this inode's: forget it, or keep it for open handles."""
        if inode.is_dir:
            self._paths_changed()
        in_place = inode.etag is not None and inode.origin is None
        self._pend(key, inode.etag if in_place else ("" if not inode.is_dir else None))
        if keep:
            origin = key if in_place else inode.origin
            self._rows.set(inode.ino, {"nlink": 0, "origin": origin, "ctime_ns": time.time_ns()})
        else:
            if inode.origin is not None:  # perhaps a copy made aside, of which nothing else tells
                self._pend(inode.origin, inode.etag)
            self._drop(inode.ino)
        self.used_bytes -= inode.size

    def _drop(self, ino: int) -> None:
        self._rows.drop(ino)
        self._db.execute("DELETE FROM xattrs WHERE ino = ?", (ino,))

    async def drop_orphan(self, ino: int) -> None:
        """An unlinked inode is no longer open; its temporary object may go."""
        with self._db.transaction():
            row = self._db.one("SELECT origin FROM inodes WHERE ino = ? AND nlink = 0", (ino,))
            if row is None:
                return
            if row[0] is not None:
                self._pend(row[0], None)
            self._drop(ino)

    async def drop_orphans(self, still_open: Container[int]) -> list[Inode]:
        """Drop all unlinked inodes but those that are open; returns the dropped."""
        dropped = [inode for inode in self.each_orphan() if inode.ino not in still_open]
        for inode in dropped:
            await self.drop_orphan(inode.ino)
        return dropped

    async def remove(
        self, parent: int, name: str, inode: Inode, *, keep: bool, request: int | None = None
    ) -> Removed:
        """Unlink a file or an empty directory; ``keep`` where handles are open."""
        now = time.time_ns()
        with self._db.transaction():
            key = self._key(parent, name, directory=inode.is_dir)
            self._rows.unname(parent, name)
            self._displace(inode, key, keep=keep)
            self._keep_directory(parent)
            self._touch(parent, now)
            self._complete(request, 0)
        return Removed(inode, keep)

    def _keep_directory(self, ino: int) -> None:
        """A directory that lost its last name gets a marker object, or the store would lose it."""
        if ino == ROOT:
            return
        inode = self._rows.find(ino)
        if inode is None or inode.flags & Mark.MARKER:
            return
        if self._db.one("SELECT 1 FROM dentries WHERE parent = ? LIMIT 1", (ino,)) is not None:
            return
        path = self.path_now(ino)
        if path is not None:
            self._rows.set(ino, {"flags": inode.flags | Mark.MARKER})
            self._pend(path + "/", "")

    def _moved(self, inode: Inode, old: str, new: str) -> None:
        """Note in ``pending`` that an inode's key (without trailing slash) changed."""
        if inode.is_dir:
            if inode.flags & Mark.MARKER:
                self._pend(old + "/", None)
                self._pend(new + "/", "")
            return
        in_place = inode.etag is not None and inode.origin is None
        self._pend(old, inode.etag if in_place else "")
        self._pend(new, "")
        origin = old if in_place else inode.origin
        if origin == new:
            origin = None
        self._rows.set(inode.ino, {"origin": origin})

    def _moved_tree(self, top: Inode, old: str, new: str) -> None:
        """As :meth:`_moved` for a directory and all below it."""
        self._paths_changed()
        self._moved(top, old, new)
        stack = [(top.ino, old + "/", new + "/")]
        while stack:
            parent, old_path, new_path = stack.pop()
            move_files(self._db, parent, old_path, new_path, self._noted_now())
            for name, ino, flags in directories(self._db, parent):
                if flags & Mark.MARKER:
                    self._pend(f"{old_path}{name}/", None)
                    self._pend(f"{new_path}{name}/", "")
                stack.append((ino, f"{old_path}{name}/", f"{new_path}{name}/"))
        self._rows.origins = True
        self._rows.forget()
        self._pending.clear()

    def _there(self, top: Inode, key: str) -> None:
        """Note what is at the keys of an inode and of all below it before another's is noted for
        them: the first note stays."""
        if not top.is_dir:
            if top.etag is not None and top.origin is None:
                self._pend(key, top.etag)
            return
        stack = [(top.ino, key + "/", top.flags)]
        while stack:
            ino, path, flags = stack.pop()
            if flags & Mark.MARKER:
                self._pend(path, None)
            note_files(self._db, ino, path, self._noted_now())
            for name, below, marks in directories(self._db, ino):
                stack.append((below, f"{path}{name}/", marks))
        self._pending.clear()

    def _place(self, inode: Inode, parent: int, name: str, place: int) -> None:
        """Where another inode had the name, ``place`` is that one's: it is the name's, or who reads
        the directory meanwhile would miss the name or meet it twice."""
        self._rows.name(parent, name, inode._replace(place=place))
        now = time.time_ns()
        values = {"parent": parent, "place": place, "ctime_ns": now, "checked_ns": now}
        self._rows.set(inode.ino, values)

    async def rename(
        self,
        inode: Inode,
        parent: int,
        name: str,
        new_parent: int,
        new_name: str,
        *,
        displaced: Inode | None,
        keep_displaced: bool,
        request: int | None = None,
    ) -> None:
        """Move a name; ``displaced`` is what had the new name (an empty directory or a file)."""
        now = time.time_ns()
        with self._db.transaction():
            old, new = self._key(parent, name), self._key(new_parent, new_name)
            self._rows.unname(parent, name)
            if displaced is not None:
                self._rows.unname(new_parent, new_name)
                key = new + "/" if displaced.is_dir else new
                self._displace(displaced, key, keep=keep_displaced)
            self._place(inode, new_parent, new_name, (displaced or inode).place)
            (self._moved_tree if inode.is_dir else self._moved)(inode, old, new)
            if inode.is_dir:
                self._keep_directory(inode.ino)
            self._keep_directory(parent)
            self._touch(parent, now)
            self._touch(new_parent, now)
            self._complete(request, 0)

    async def exchange(
        self,
        first: Inode,
        parent: int,
        name: str,
        second: Inode,
        new_parent: int,
        new_name: str,
        *,
        request: int | None = None,
    ) -> None:
        """Swap two names atomically (RENAME_EXCHANGE)."""
        with self._db.transaction():
            old, new = self._key(parent, name), self._key(new_parent, new_name)
            self._there(first, old)
            self._there(second, new)
            self._rows.unname(parent, name)
            self._rows.unname(new_parent, new_name)
            self._place(first, new_parent, new_name, second.place)
            self._place(second, parent, name, first.place)
            for inode, source, target in ((first, old, new), (second, new, old)):
                (self._moved_tree if inode.is_dir else self._moved)(inode, source, target)
            for directory in {parent, new_parent}:
                self._touch(directory, time.time_ns())
            self._complete(request, 0)

    async def update(self, ino: int, *, add: int = 0, clear: int = 0, **values: Any) -> None:
        """Set columns of one inode, ``add`` marks to its flags and ``clear`` others (with XATTRS
        what it has of those); keeps the sum of sizes true."""
        if "size" in values or clear & Mark.XATTRS:
            with self._db.transaction():
                self._update(ino, values, add, clear)
        else:
            self._db.alone(lambda: self._update(ino, values, add, clear))

    def _update(self, ino: int, values: dict[str, Any], add: int = 0, clear: int = 0) -> None:
        inode = self._rows.find(ino)
        if inode is None:
            return
        if "size" in values and inode.nlink > 0:
            self.used_bytes += values["size"] - inode.size
        if "stage" in values and values["stage"] != inode.stage:
            clear |= Mark.OF_STAGE
        if clear & inode.flags & Mark.XATTRS:
            self._db.execute("DELETE FROM xattrs WHERE ino = ?", (ino,))
        if add or clear:
            values = {**values, "flags": inode.flags & ~clear | add}
        written = values.get("mtime_ns", 0)
        if "ctime_ns" not in values and inode.ctime_ns < written <= time.time_ns():
            values = {**values, "ctime_ns": written}  # a write changes both
        self._rows.set(ino, values)

    async def dirty(
        self, ino: int, key: str, expect: str | None, *, add: int = 0, **values: Any
    ) -> None:
        """The staged bytes (or attributes) of ``ino`` are newer than the object at ``key``."""
        with self._db.transaction():
            self._pend(key, expect)
            if values:
                self._update(ino, values, add)

    async def setxattr(self, ino: int, name: bytes, value: bytes, request: int | None) -> None:
        with self._db.transaction():
            self._db.execute("INSERT OR REPLACE INTO xattrs VALUES (?,?,?)", (ino, name, value))
            self._changed_attrs(ino)
            self._complete(request, 0)

    async def removexattr(self, ino: int, name: bytes, request: int | None) -> None:
        with self._db.transaction():
            self._db.execute("DELETE FROM xattrs WHERE ino = ? AND name = ?", (ino, name))
            self._changed_attrs(ino)
            self._complete(request, 0)

    async def load_xattrs(self, ino: int, values: dict[bytes, bytes]) -> None:
        """Extended attributes as the object's metadata has them."""
        with self._db.transaction():
            self._db.execute("DELETE FROM xattrs WHERE ino = ?", (ino,))
            self._db.executemany(
                "INSERT INTO xattrs VALUES (?,?,?)", [(ino, k, v) for k, v in values.items()]
            )
            inode = self._rows.find(ino)
            if inode is not None:
                self._rows.set(ino, {"flags": inode.flags | Mark.XATTRS})

    def _changed_attrs(self, ino: int) -> None:
        inode = self._rows.find(ino)
        if inode is not None:
            flags = inode.flags | Mark.ATTRS_DIRTY | Mark.ATTRS_KNOWN | Mark.XATTRS
            self._rows.set(ino, {"ctime_ns": time.time_ns(), "flags": flags})
