"""The local file system, on the disk that holds the caches of the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import disk
from bench.errors import BenchError
from bench.rows import LOCAL
from bench.targets.base import Mounted, MountOptions, Place


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    path: Path

    def pid(self) -> int:
        raise BenchError("the local file system has no process")


class Local:
    """A directory for each prefix. Large files that a row writes there go again at its end."""

    name = LOCAL
    uploads_at_close = False

    def __init__(self, place: Place) -> None:
        self._root = place.work / "local"

    def directory(self, prefix: str) -> Path:
        return self._root / prefix

    @contextmanager
    def mounted(self, options: MountOptions) -> Iterator[Mounted]:
        path = self.directory(options.prefix)
        path.mkdir(parents=True, exist_ok=True)
        before = set(os.listdir(path))
        try:
            yield LocalDirectory(path)
        finally:
            for name in set(os.listdir(path)) - before:
                if (path / name).stat().st_size >= disk.LARGE:
                    (path / name).unlink()
