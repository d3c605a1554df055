"""The forms in which bytes of a file are handed to whoever asked for them."""

from __future__ import annotations

import os
from typing import NamedTuple


class FileRange(NamedTuple):
    """Bytes of an open local file: the engine copies them to the kernel. Short at end of file."""

    fd: int
    offset: int
    length: int


ReadResult = bytes | memoryview | FileRange


def as_bytes(result: ReadResult) -> bytes:
    """The bytes of a read result, whatever its form."""
    if isinstance(result, FileRange):
        return os.pread(result.fd, result.length, result.offset)
    return bytes(result)
