"""Which volumes are mounted on this machine: one small file per mount in the run directory.

``/run/slayerfs`` for root, else ``$XDG_RUNTIME_DIR/slayerfs``, or ``~/.cache/slayerfs-run``: beside
the default cache, which begins in an empty directory. A file names the mount point, the
supervisor's pid and the sockets; it holds no secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mounted:
    """One entry. ``control`` is the worker's control socket; ``state`` the volume's directory."""

    volume: str
    url: str
    mountpoint: str
    supervisor: int
    control: str
    state: str
    cache: str


def run_directory() -> Path:
    """The directory, created if it is not there."""
    if os.geteuid() == 0:
        path = Path("/run/slayerfs")
    else:
        base = os.environ.get("XDG_RUNTIME_DIR")
        path = Path(base) / "slayerfs" if base else Path.home() / ".cache/slayerfs-run"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def control_path(volume: str) -> Path:
    return run_directory() / f"{volume}.sock"


def _entry_path(volume: str) -> Path:
    return run_directory() / f"{volume}.json"


def write(entry: Mounted) -> None:
    """Record a mount, atomically."""
    path = _entry_path(entry.volume)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(entry)))
    temporary.rename(path)


def remove(volume: str) -> None:
    for path in (_entry_path(volume), control_path(volume)):
        path.unlink(missing_ok=True)


def mounts() -> Iterator[Mounted]:
    """All entries that can be read; a damaged one is skipped."""
    for path in sorted(run_directory().glob("*.json")):
        try:
            yield Mounted(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue


def find(mountpoint: str) -> Mounted | None:
    """The entry of a mount point."""
    return next((entry for entry in mounts() if entry.mountpoint == mountpoint), None)
