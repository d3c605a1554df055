"""A bell that wakes the governor, whichever process it is in: a FIFO in the cache directory."""

from __future__ import annotations

import os
from contextlib import suppress

from csi_slayer.cache.layout import Layout


def ring(layout: Layout) -> None:
    """Wake the governor; nothing happens if there is none, if it has been rung for already, or if
    the bell cannot be had (no descriptor is left, say): the governor looks by itself, too."""
    with suppress(OSError):
        fd = os.open(layout.governor_wake, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, b"!")
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
