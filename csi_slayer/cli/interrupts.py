"""Ctrl-C while there is nothing to be put away: before a command's modules are loaded and after
its work. Nothing else is imported here, for that takes time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def _at_once(_number: int, _frame: object) -> None:
    """An exception would come up in the middle of an import, or be swallowed there."""
    os.write(2, b"csi-slayer: interrupted\n")
    os._exit(130)


def end_at_once() -> None:
    """From now on Ctrl-C ends the process, unless it is to be ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _at_once)


@contextmanager
def raised() -> Iterator[None]:
    """Within the block Ctrl-C is KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is not _at_once:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _at_once)
