"""INTERRUPT: which requests to cancel when a signal reaches their callers.

The kernel sends one for any signal, also for one that the caller handles (a timer, a child's end,
a language runtime's own). EINTR from read(2) is something that programs are prepared for; from
close, fsync, mkdir or stat it is not, after a change it leaves the caller ignorant of whether it
took place, and for a page of a mapping it becomes SIGBUS. So a read that is no filling of the page
cache is cancelled at once, everything else only when the signal ends the caller, as on a local
disk. That is looked up in /proc, and looked up again while the request runs, for the kernel tells
of the first signal only. Where the caller cannot be seen (another PID namespace), everything is
cancelled at once: then it can at least be killed.

A request that died with a predecessor, on a kernel that does not send it again, is answered with
EINTR whatever the signal: nobody else ever will.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.channel import Channel

LOOK_AGAIN: Final = 1.0
"""Seconds between two looks at a caller that has got a signal."""

_REMEMBERED: Final = 64

# CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH do not end a process that does not handle them.
_HARMLESS: Final = sum(1 << (number - 1) for number in (17, 18, 19, 20, 21, 22, 23, 28))


class Interruptible(Protocol):
    """A request whose handler waits. ``prepared``: its caller knows what to do with EINTR."""

    pid: int
    prepared: bool

    def cancel(self) -> bool: ...
    def done(self) -> bool: ...


def is_dying(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a thread has a pending signal that ends it; also True for one that is not there."""
    try:
        text = (proc / str(pid) / "status").read_text()
    except OSError:
        return True
    masks = dict(line.split(":\t", 1) for line in text.splitlines() if line.startswith("S"))
    try:
        pending = int(masks["SigPnd"], 16) | int(masks["ShdPnd"], 16)
        kept_off = int(masks["SigBlk"], 16) | int(masks["SigIgn"], 16) | int(masks["SigCgt"], 16)
    except (KeyError, ValueError):
        return True
    return bool(pending & ~kept_off & ~_HARMLESS)


class Interrupts:
    """``running`` are the requests whose handlers wait, by unique."""

    def __init__(
        self,
        channel: Channel,
        running: Mapping[int, Interruptible],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._channel = channel
        self._running = running
        self._loop = loop
        self._unknown: deque[int] = deque(maxlen=_REMEMBERED)

    def handle(self, unique: int, body: memoryview, abandoned: float) -> None:
        """``unique`` is the INTERRUPT's own; it is not answered, except to have it sent again.
        Requests whose unique is less than ``abandoned`` died with a predecessor."""
        (target,) = p.INTERRUPT_IN.unpack_from(body)
        request = self._running.get(target)
        if request is not None:
            self._consider(request)
        elif target < abandoned:
            self._channel.reply_error(target, errno.EINTR)
        elif target not in self._unknown:
            # Answered already, and the kernel drops this; or a predecessor had read it, and it
            # comes again. Once is enough: a resent request brings its interrupt along.
            self._unknown.append(target)
            self._channel.reply_error(unique, errno.EAGAIN)

    def _consider(self, request: Interruptible) -> None:
        if request.done():
            return
        if request.prepared or is_dying(request.pid):
            request.cancel()
        else:
            self._loop.call_later(LOOK_AGAIN, self._consider, request)
