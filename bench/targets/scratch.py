"""A directory for each mount: mount point, cache and log."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import disk

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Scratch:
    """Paths of one mount."""

    root: Path

    @property
    def point(self) -> Path:
        return self.root / "mnt"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def tail(self) -> str:
        """The end of the log on one line, for an error."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " / ".join(text.strip().splitlines()[-3:])[-300:]


@contextmanager
def scratch(work: Path, name: str) -> Iterator[Scratch]:
    """Fresh directories below ``work``. At the end the cache's large files go, to make room."""
    paths = Scratch(work / "mounts" / f"{name}-{next(_numbers)}")
    paths.point.mkdir(parents=True)
    paths.cache.mkdir()
    try:
        yield paths
    finally:
        disk.remove_large(paths.cache)
