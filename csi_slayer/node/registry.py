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

from csi_slayer.errors import ConfigError


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
    """The directory, created if it is not there. Raises ConfigError."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    try:
        if os.geteuid() == 0:
            path = Path("/run/slayerfs")
        else:
            path = Path(base) / "slayerfs" if base else Path.home() / ".cache/slayerfs-run"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners = {path.lstat().st_uid, path.stat().st_uid}
    except RuntimeError:
        raise ConfigError("this user has no home directory: set XDG_RUNTIME_DIR, or HOME") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: name a directory of yours by XDG_RUNTIME_DIR"
        ) from error
    if not owners <= {0, os.geteuid()}:
        # It says which process to ask, or to end.
        raise ConfigError(
            f"{path} belongs to another user: name a directory of yours by XDG_RUNTIME_DIR"
        )
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


def has(volume: str) -> bool:
    """Whether there is an entry of the volume."""
    return _entry_path(volume).exists()


def remove(volume: str) -> None:
    for path in (_entry_path(volume), control_path(volume)):
        path.unlink(missing_ok=True)


def mounts() -> Iterator[Mounted]:
    """All entries that can be read, what was mounted last at the end; a damaged one is skipped."""
    found = []
    for path in sorted(run_directory().glob("*.json")):
        try:
            found.append((path.stat().st_mtime_ns, Mounted(**json.loads(path.read_text()))))
        except (OSError, ValueError, TypeError):
            continue
    found.sort(key=lambda each: each[0])
    yield from (entry for _time, entry in found)


def find(mountpoint: str) -> Mounted | None:
    """The entry of what was mounted last there: an earlier volume's worker may still upload."""
    there = [entry for entry in mounts() if entry.mountpoint == mountpoint]
    return there[-1] if there else None
