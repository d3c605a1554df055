"""The forms in which bytes of a file are handed to whoever asked for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple


class FileRange(NamedTuple):
    """Bytes of an open local file: the engine copies them to the kernel. Short at end of file."""

    fd: int
    offset: int
    length: int


class Views(NamedTuple):
    """Bytes in memory that somebody else uses again as soon as nothing refers to ``owners``."""

    parts: Sequence[memoryview]
    length: int
    owners: object


ReadResult = bytes | memoryview | FileRange | Views


def as_bytes(result: ReadResult) -> bytes:
    """The bytes of a read result, whatever its form."""
    if isinstance(result, FileRange):
        return os.pread(result.fd, result.length, result.offset)
    if isinstance(result, Views):
        return b"".join(result.parts)
    return bytes(result)
