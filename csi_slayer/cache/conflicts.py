"""Staged files that could not be stored, because the store had something newer or the catalog is
lost that knew their names: kept for good.

Nothing here is ever deleted by the program. Each file has a note beside it, in JSON, that says
which object it was meant to be.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from csi_slayer.cache.layout import Layout
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.staging import SIDECAR, SYNCED, Staging, disk_usage


class Conflicts:
    """The conflicts of one volume."""

    def __init__(self, layout: Layout, volume: str) -> None:
        self.directory = layout.conflicts(volume)

    def keep(
        self,
        staging: Staging,
        stage: str,
        *,
        key: str | None,
        expected: str | None,
        found: str | None,
    ) -> Path:
        """Move a staged file here; returns where it is now.

        ``key`` is that of the object it was meant to be, None if nobody knows; ``expected`` and
        ``found`` are the etags that the upload meant to replace and met. The name begins with the
        time and ends with that of the object, so that a person finds it. Raises CacheError, and
        the file stays staged.
        """
        now = datetime.now(UTC)
        name = "unnamed" if key is None else key.rstrip("/").rsplit("/", 1)[-1]
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:]
        target = self.directory / f"{now:%Y%m%dT%H%M%SZ}-{readable}-{stage[:8]}"
        source = staging.path(stage)
        note = {
            "key": key,
            "expected_etag": expected,
            "found_etag": found,
            "time": now.isoformat(),
            "partial": source.with_name(source.name + SIDECAR).exists(),
        }
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            # Note and sidecar first, the staged names last: a crash leaves a note too many, never
            # a file without one, and never a staged file that has lost its sidecar.
            _note(target.with_name(target.name + ".json"), json.dumps(note, indent=2) + "\n")
            with suppress(FileNotFoundError):
                os.link(f"{source}{SIDECAR}", f"{target}{SIDECAR}")
            os.rename(source, target)
        except OSError as error:
            raise translated(error, "keeping a conflicting file") from error
        for sidecar in (SIDECAR, SYNCED):
            with suppress(OSError):  # it has moved whatever becomes of these: the next start's
                os.unlink(f"{source}{sidecar}")
        return target

    def give_back(self, kept: Path, staging: Staging, stage: str) -> None:
        """Undo :meth:`keep`: what was to follow it has failed, and will be tried again. Raises
        CacheError."""
        source = staging.file(stage)
        try:
            with suppress(FileNotFoundError, FileExistsError):
                os.link(f"{kept}{SIDECAR}", f"{source}{SIDECAR}")
            os.rename(kept, source)
            for beside in (SIDECAR, ".json"):
                kept.with_name(kept.name + beside).unlink(missing_ok=True)
        except OSError as error:
            raise translated(error, "giving a conflicting file back") from error

    def list(self) -> Sequence[Path]:
        """The files kept, oldest first."""
        if not self.directory.exists():
            return []
        return sorted(
            path for path in self.directory.iterdir() if path.suffix not in (".json", SIDECAR)
        )

    def usage(self) -> int:
        """Bytes on the disk."""
        return disk_usage(self.directory)


def _note(path: Path, text: str) -> None:
    """Best effort on a full disk: what is kept is worth more than what is said of it."""
    try:
        _write(path, text)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
