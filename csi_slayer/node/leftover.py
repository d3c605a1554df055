"""What workers leave on the disk: state directories, and whether something in one is unsaved."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

from csi_slayer.node.records import Places


def pending(state: Path) -> int:
    """Keys that a volume's last worker had still to upload. -1 if nobody can tell."""
    catalog = state / "catalog.db"
    if not catalog.exists():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(f"file:{catalog}?mode=rw", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM pending").fetchone()[0])
    except sqlite3.Error:
        return -1


def remove_state(places: Places, mount_id: str) -> None:
    """Remove what a volume's workers kept on this machine. Not for one with something pending;
    conflicts stay, they are for a person to look at."""
    shutil.rmtree(places.state(mount_id), ignore_errors=True)
    with contextlib.suppress(OSError):
        places.staging(mount_id).rmdir()  # if it is empty
    remove_places(places, mount_id)


def remove_places(places: Places, mount_id: str) -> None:
    """Remove the private mount point, with nothing mounted there, and the control socket."""
    with contextlib.suppress(OSError):
        Path(places.mountpoint(mount_id)).rmdir()
    with contextlib.suppress(FileNotFoundError):
        Path(places.control(mount_id)).unlink()
