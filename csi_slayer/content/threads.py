"""Calls in threads that use what is closed when a request ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(call: Callable[[threading.Event], T]) -> T:
    """``call`` in a thread, which is never left alone: who is cancelled waits until it returns.

    A thread that goes on with the number of a descriptor writes into whatever file has the number
    next. The event is set when nobody wants the result any longer; a call of more than some
    hundred milliseconds should look at it. Raises what ``call`` raises.
    """
    unwanted = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(call, unwanted))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        unwanted.set()
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((work,))
        if not work.cancelled():
            work.exception()  # looked at: nobody else will
        raise
