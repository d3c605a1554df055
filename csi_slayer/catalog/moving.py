"""The files of one directory whose path changes, all at once: a tree may have millions, and the
event loop waits meanwhile. What is noted of each is what ``Changes`` notes of a single file."""

from __future__ import annotations

from csi_slayer.catalog.database import Database, Row

_FILES = (
    "FROM dentries d JOIN inodes i ON i.ino = d.ino "
    "WHERE d.parent = :parent AND i.mode & 61440 <> 16384 "  # S_IFMT, S_IFDIR
)
_IN_PLACE = "i.etag IS NOT NULL AND i.origin IS NULL"
_PEND = (
    "INSERT INTO pending(key, expect, since_ns, token) "
    "SELECT {key}, {expect}, :since_ns, lower(hex(randomblob(8))) "
    + _FILES
    + "{which}ON CONFLICT(key) DO UPDATE SET since_ns = excluded.since_ns"
)
_LEAVE = _PEND.format(key=":old || d.name", expect=f"iif({_IN_PLACE}, i.etag, '')", which="")
_ARRIVE = _PEND.format(key=":new || d.name", expect="''", which="")
_THERE = _PEND.format(key=":path || d.name", expect="i.etag", which=f"AND {_IN_PLACE} ")
_ORIGIN = (
    "UPDATE inodes SET origin = iif(m.in_place, :old || m.name, NULL) "
    f"FROM (SELECT d.ino, d.name, {_IN_PLACE} AS in_place {_FILES} "
    f"AND ({_IN_PLACE} OR i.origin = :new || d.name)) AS m WHERE m.ino = inodes.ino"
)
_DIRECTORIES = (
    "SELECT d.name, i.ino, i.flags FROM dentries d JOIN inodes i ON i.ino = d.ino "
    "WHERE d.parent = ? AND i.mode & 61440 = 16384"
)


def move_files(database: Database, parent: int, old: str, new: str, since_ns: int) -> None:
    """Within a transaction: the keys of the files in the directory ``parent`` begin with ``new``
    instead of ``old``, both with a slash at their end."""
    values = {"parent": parent, "old": old, "new": new, "since_ns": since_ns}
    for statement in (_LEAVE, _ARRIVE, _ORIGIN):
        database.execute(statement, values)


def note_files(database: Database, parent: int, path: str, since_ns: int) -> None:
    """Within a transaction: what is at the keys of the files in the directory ``parent``, which
    begin with ``path`` (with its slash), may have to change."""
    database.execute(_THERE, {"parent": parent, "path": path, "since_ns": since_ns})


def directories(database: Database, parent: int) -> list[Row]:
    """(name, ino, flags) of the directories in a directory."""
    return database.all(_DIRECTORIES, (parent,))
