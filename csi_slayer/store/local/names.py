"""Which keys a directory can hold, and where.

Key ``a/b`` is the file ``b`` in the directory ``a``; ``a/`` is the directory itself, as a marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csi_slayer.errors import StoreUnsupported

# Unfinished files, multipart uploads and the lock; never listed, never a key.
HIDDEN = ".slayerfs-tmp"

_LONGEST_NAME = 255
LONGEST_PATH = 3800  # bytes below the root: PATH_MAX less room for where the root is


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key is: ``folders`` to walk through, then ``name``; ``marker``: it is a directory."""

    key: str
    folders: Sequence[str]
    name: str
    marker: bool

    @property
    def directory(self) -> Sequence[str]:
        """All components: the directory that a marker stands for."""
        return [*self.folders, self.name]


def place_of(key: str) -> Place:
    """Where a key is. Raises StoreUnsupported for one that no file can have."""
    marker = key.endswith("/")
    parts = (key[:-1] if marker else key).split("/")
    problem = _problem(key, parts)
    if problem:
        raise StoreUnsupported(f"a local directory cannot hold the key {key!r}: {problem}")
    return Place(key, parts[:-1], parts[-1], marker)


def listable(name: str) -> bool:
    """Whether a file's name can be part of a key: it must be UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(key: str, parts: Sequence[str]) -> str:
    if not key:
        return "it is empty"
    if "\0" in key:
        return "it contains a null byte"
    if not listable(key):
        return "it is not valid text"
    if any(part in ("", ".", "..") for part in parts):
        return "a component is empty, '.' or '..'"
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return f"a component is longer than {_LONGEST_NAME} bytes"
    if len(key.encode()) > LONGEST_PATH:
        return f"it is longer than {LONGEST_PATH} bytes"
    if parts[0] == HIDDEN:
        return f"{HIDDEN} is the store's own directory"
    return ""
