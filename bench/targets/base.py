"""What a measurement knows of a file system it measures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class MountOptions:
    """``durability``: written files are in the bucket at close, or some time later.
    ``whole_files``: the mount is told, if that is possible, that files are read whole."""

    prefix: str
    read_only: bool = False
    durability: Literal["close", "writeback"] = "close"
    cache_bytes: int = 10 * 2**30
    whole_files: bool = False


class Mounted(Protocol):
    """A mounted file system. ``path`` is only for child processes that can be ended."""

    @property
    def path(self) -> Path: ...

    def pid(self) -> int:
        """The process that serves it. Raises BenchError if there is none."""
        ...


class Target(Protocol):
    """A kind of file system; ``name`` is its column."""

    @property
    def name(self) -> str: ...

    @property
    def uploads_at_close(self) -> bool:
        """With durability ``close``, what was closed is in the bucket when close returns."""
        ...

    def mounted(self, options: MountOptions) -> AbstractContextManager[Mounted]:
        """Mounted with an empty cache of its own; unmounted and the cache removed at the end.

        Raises BenchError if it does not mount.
        """
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target works: the bucket, and directories on the disk that all targets share."""

    endpoint: str
    region: str
    bucket: str
    access_key: str
    secret_key: str
    work: Path
    server: str

    def __repr__(self) -> str:
        return f"Place({self.endpoint}, {self.bucket}, {self.work})"  # the secret stays out
