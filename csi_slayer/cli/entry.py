"""Where the command starts. Its modules take a moment to load: they are not imported before
Ctrl-C is dealt with."""

from __future__ import annotations

import errno
import os
import sys

from csi_slayer.cli.interrupts import end_at_once

_UNWRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE})


def _open_standard_streams() -> None:
    """A descriptor of ours in the place of one that was closed would be taken for it: a process
    that we start would get it as its standard output, and not find what it was meant to be."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def run(arguments: list[str] | None = None) -> None:
    """The program ``csi-slayer``; ``arguments``: not those that it was called with."""
    _open_standard_streams()
    end_at_once()
    from csi_slayer.cli.main import app

    try:
        try:
            app(arguments)
        finally:
            if sys.stdout is not None:  # it was closed when we were started
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in _UNWRITTEN or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try once more when it ends
        if error.errno != errno.EPIPE:
            os.write(2, f"csi-slayer: standard output: {error.strerror}\n".encode())
        sys.exit(1)
