"""What workers leave on the disk: their state, and whether the store lacks something of it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

from csi_slayer.node.records import Places


def unsaved(state: Path, staging: Path) -> int:
    """How many files of a volume the store does not have as they are: those to upload, or if there
    are none those that were open and written to when everything died. -1 if nobody can tell.

    ``state`` is the directory of its catalog, ``staging`` that of its staged files.
    """
    catalog = state / "catalog.db"
    if not catalog.exists():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(f"file:{catalog}?mode=rw", uri=True)) as database:
            if count := int(database.execute("SELECT count(*) FROM pending").fetchone()[0]):
                return count
            staged = database.execute(
                "SELECT stage, stamp FROM inodes WHERE stage IS NOT NULL AND nlink > 0"
            )
            return sum(_is_dirty(staging / stage, stamp) for stage, stamp in staged)
    except (sqlite3.Error, OSError):
        return -1


def _is_dirty(path: Path, stamp: int | None) -> bool:
    try:
        return path.stat().st_mtime_ns != stamp
    except FileNotFoundError:
        return False


def remove_state(places: Places, mount_id: str) -> None:
    """Remove what a volume's workers kept on this machine. Not for one with something unsaved;
    conflicts stay, they are for a person to look at."""
    shutil.rmtree(places.state(mount_id), ignore_errors=True)
    shutil.rmtree(places.staging(mount_id), ignore_errors=True)
    remove_places(places, mount_id)


def remove_places(places: Places, mount_id: str) -> None:
    """Remove the private mount point, with nothing mounted there, and the control socket."""
    with contextlib.suppress(OSError):
        Path(places.mountpoint(mount_id)).rmdir()
    with contextlib.suppress(FileNotFoundError):
        Path(places.control(mount_id)).unlink()
