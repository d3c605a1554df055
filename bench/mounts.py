"""Mount points as the kernel sees them, without ever touching a path inside one.

A file system whose daemon is gone blocks whoever looks at it, uninterruptibly; so this module
reads /proc/self/mountinfo and leaves the rest to child processes with a deadline.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.errors import BenchError

_POLL = 0.01
_UNMOUNT_TIMEOUT = 30.0
_BUSY_RETRIES = 50


def parse(mountinfo: str) -> dict[Path, int]:
    """Mount points with the minor device number of what is on top there."""
    points: dict[Path, int] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[4])
        points[Path(point)] = int(fields[2].partition(":")[2])
    return points


def current() -> dict[Path, int]:
    return parse(Path("/proc/self/mountinfo").read_text())


def wait_until_mounted(point: Path, alive: Callable[[], bool], timeout: float) -> None:
    """Raises BenchError if the daemon ends before, or after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while point not in current():
        if not alive():
            raise BenchError("the daemon ended before the mount appeared")
        if time.monotonic() > deadline:
            raise BenchError(f"not mounted within {timeout:.0f} s")
        time.sleep(_POLL)


def unmount(point: Path) -> None:
    """Unmount in good order; one that stays busy or hangs is forced. No error if not mounted."""
    for _ in range(_BUSY_RETRIES):
        if point not in current():
            return
        try:
            command = ["umount", str(point)]
            subprocess.run(command, timeout=_UNMOUNT_TIMEOUT, capture_output=True, check=True)
        except subprocess.CalledProcessError:
            time.sleep(0.1)  # busy: a descriptor of a process that is just ending
        except subprocess.TimeoutExpired:
            break
    force(point)


def force(point: Path) -> None:
    """Abort the FUSE connection, so that nobody hangs in it, and detach the mount point."""
    minor = current().get(point)
    if minor is None:
        return
    abort = Path(f"/sys/fs/fuse/connections/{minor}/abort")
    if abort.exists():
        abort.write_text("1")
    command = ["umount", "--lazy", str(point)]
    subprocess.run(command, timeout=_UNMOUNT_TIMEOUT, capture_output=True, check=False)


def force_all_below(root: Path) -> list[Path]:
    """Force every mount point below ``root``; returns them."""
    found = [point for point in current() if point.is_relative_to(root)]
    for point in sorted(found, reverse=True):
        force(point)
    return found
