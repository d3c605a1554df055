"""A directory for each mount: mount point, cache and log, all gone afterwards."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """Fresh directories below ``work``; whoever mounts there unmounts before the end."""
    paths = Scratch(work / "mounts" / f"{name}-{next(_numbers)}")
    paths.point.mkdir(parents=True)
    paths.cache.mkdir()
    try:
        yield paths
    finally:
        # The mount point only as an empty directory: never a recursive removal through a mount.
        shutil.rmtree(paths.cache, ignore_errors=True)
        paths.log.unlink(missing_ok=True)
        try:
            paths.point.rmdir()
            paths.root.rmdir()
        except OSError:
            pass  # still mounted: the end of the run forces it
