"""A catalog that does not exist yet, put in its place complete.

SQLite alone would sync a dozen times to make one, and a node that publishes many volumes at once
waits for little else.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from pathlib import Path

from csi_slayer.catalog.schema import PAGE_SIZE, STATEMENTS, VERSION

RESERVE = 1 << 20
"""Bytes of the database and of the WAL that are kept for work while the disk is full."""

# Where the header of SQLite's file format has its read and write versions; 2: there is a WAL.
_VERSIONS, _WAL = slice(18, 20), b"\2\2"


@functools.cache
def image() -> bytes:
    """The file of an empty catalog in WAL mode with :data:`RESERVE` free bytes. Made once: a
    process that forks workers may ask for it before. Raises sqlite3.Error."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
        for statement in STATEMENTS:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("CREATE TABLE reserve(room)")
        connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (RESERVE,))
        connection.execute("DROP TABLE reserve")
        data = bytearray(connection.serialize())
    finally:
        connection.close()
    data[_VERSIONS] = _WAL
    return bytes(data)


def create(path: Path) -> None:
    """An empty catalog; it survives a power loss. Raises sqlite3.Error and OSError."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(image())
        file.flush()
        os.fsync(file.fileno())
    for left in ("-wal", "-shm"):
        # Of a database that is gone: SQLite would carry its changes into this one.
        path.with_name(path.name + left).unlink(missing_ok=True)
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def reserve_wal(path: Path) -> None:
    """Give the WAL, of which nothing is used yet, the blocks for :data:`RESERVE` bytes of
    transactions. Raises OSError."""
    frames = RESERVE // PAGE_SIZE
    # A header of 32 bytes, and one of 24 for each page.
    fd = os.open(f"{path}-wal", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, 32 + frames * (24 + PAGE_SIZE))
    finally:
        os.close(fd)
