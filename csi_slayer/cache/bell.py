"""A bell that wakes the governor, whichever process it is in: a FIFO in the cache directory."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from csi_slayer.cache.layout import Layout


def ring(layout: Layout) -> None:
    """Wake the governor; nothing happens if there is none, or if it has been rung for already."""
    try:
        fd = os.open(layout.governor_wake, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return
        raise
    try:
        os.write(fd, b"!")
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def open_bell(layout: Layout) -> int:
    """The governor's descriptor: readable when somebody rang. For reading and writing, so that
    it has no end of file while nobody else has it open."""
    with suppress(FileExistsError):
        os.mkfifo(layout.governor_wake, 0o600)
    return os.open(layout.governor_wake, os.O_RDWR | os.O_NONBLOCK)


def silence(bell: int) -> None:
    """Forget how often it was rung."""
    with suppress(BlockingIOError):
        while os.read(bell, 4096):
            pass
