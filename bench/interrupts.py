"""Ctrl-C, SIGTERM and SIGHUP: once, and not between starting a mount and knowing of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    held = 0
    pending = False


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Only the first one: a second Ctrl-C must not break off the unmounting.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if _State.held:
        _State.pending = True
    else:
        raise KeyboardInterrupt


def install() -> None:
    """From now on the first of the signals raises KeyboardInterrupt and the others do nothing."""
    _State.pending = False
    for each in _SIGNALS:
        signal.signal(each, _stop)


@contextmanager
def deferred() -> Iterator[None]:
    """A signal that comes inside raises at the end instead. What is inside must have a deadline.

    A command that mounts and is killed half-way may leave a mount that appears later.
    """
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
        if _State.pending and not _State.held:
            _State.pending = False
            raise KeyboardInterrupt
