"""Files that are there before a measurement, in the bucket and, the same, in a local directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

FILE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Tree:
    """``count`` files of 4 KiB below ``prefix``, ``per_directory`` in each directory.

    With ``per_directory`` zero all are in ``prefix`` itself.
    """

    prefix: str
    count: int
    per_directory: int = 0

    def names(self) -> Iterator[str]:
        """Paths relative to the prefix, in key order."""
        for index in range(self.count):
            if self.per_directory:
                yield f"d{index // self.per_directory:04d}/f{index:06d}"
            else:
                yield f"f{index:06d}"

    def object_keys(self) -> Iterator[str]:
        return (f"{self.prefix}/{name}" for name in self.names())


@dataclass(frozen=True, slots=True)
class Blobs:
    """``count`` large files of ``size`` bytes."""

    prefix: str
    size: int
    count: int = 1

    def names(self) -> Iterator[str]:
        return (f"blob{index:02d}" for index in range(self.count))

    def object_keys(self) -> Iterator[str]:
        return (f"{self.prefix}/{name}" for name in self.names())


Dataset = Tree | Blobs


def random_bytes(size: int) -> bytes:
    """Incompressible content."""
    return os.urandom(size)
