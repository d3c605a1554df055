"""Files that are, or lately were, open for writing: data that the store may not have yet.

Never evicted. The files belong to one volume's worker; which inode has which one is the catalog's
to know.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from csi_slayer.cache.layout import Layout
from csi_slayer.cache.ledger import Ledger
from csi_slayer.cache.oserrors import is_lost, translated

SIDECAR = ".blocks"
"""What a file beside a staged one is called that says which of its blocks are valid."""

SYNCED = ".synced"
"""The same, of the file that says which of its blocks were valid, and durable, at its last sync."""


class Stage(NamedTuple):
    """A staged file, ``file`` is its path; ``fd`` is the caller's to close, -1 if it was not
    opened."""

    id: str
    file: str
    fd: int = -1

    @property
    def path(self) -> Path:
        return Path(self.file)


class Staging:
    """The staged files of one volume. Raises CacheError, CacheFull."""

    def __init__(self, layout: Layout, ledger: Ledger, volume: str) -> None:
        self.directory = layout.staging(volume)
        self._directory = str(self.directory)
        self._ledger = ledger
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise translated(error, "creating a staging directory") from error

    def path(self, stage: str) -> Path:
        """Where the file of that id is, or would be."""
        return self.directory / stage

    def file(self, stage: str) -> str:
        """The same as text."""
        return f"{self._directory}/{stage}"

    def reserve(self) -> Stage:
        """An id and a path that are free, without a file. Raises CacheFull."""
        self._ledger.check_staging()
        stage = secrets.token_hex(16)
        return Stage(stage, self.file(stage))

    def create(self) -> Stage:
        """A new, empty file. Raises CacheFull if data that the store lacks has used up the cache
        or the disk."""
        stage = self.reserve()
        return self._open(stage, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, stage: str) -> Stage:
        """An existing file, for reading and writing."""
        return self._open(Stage(stage, self.file(stage)), os.O_RDWR)

    def _open(self, stage: Stage, flags: int) -> Stage:
        try:
            return Stage(stage.id, stage.file, os.open(stage.file, flags, 0o600))
        except OSError as error:
            raise translated(error, "opening a staged file") from error

    def remove(self, stage: str) -> None:
        """Delete a file and its sidecars; no error if there is none."""
        path = self.file(stage)
        try:
            for name in (path + SIDECAR, path + SYNCED, path):
                with suppress(FileNotFoundError):
                    os.unlink(name)
        except OSError as error:
            raise translated(error, "removing a staged file") from error

    def list(self) -> Iterator[Stage]:
        """All files there are, also those of which only a sidecar is left."""
        for stage in {name.partition(".")[0] for name in os.listdir(self.directory)}:
            yield Stage(stage, self.file(stage))

    def usage(self) -> int:
        """Bytes on the disk. Looks at every file: for many, in a thread."""
        return disk_usage(self.directory)


def disk_usage(directory: Path | str) -> int:
    """Bytes that the files of a directory and of those below it use on the disk."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += disk_usage(entry.path)
            else:
                try:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                except OSError as error:
                    if not is_lost(error):
                        raise
    return total
