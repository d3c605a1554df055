"""Blocking work whose end a server decides: each piece in a thread of its own.

A process has few threads for ``asyncio.to_thread`` (loops have as few for names): a volume's owner
who names a service that never ends its answers, or a name that nobody answers for, would hold them
all, and with them what is done for other volumes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from csi_slayer.store.retry import Transient

T = TypeVar("T")


def aside(work: Callable[[], T]) -> asyncio.Future[T]:
    """What ``work`` answers or raises. Nobody has to wait for it, nor does the process at its end.
    Raises Transient where no thread can be started."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    # Retrieved here for the case that nobody waits any more.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:
            tell(partial(future.set_exception, error))
        else:
            tell(partial(future.set_result, result))

    def tell(settle: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if future.done() else settle())

    try:
        threading.Thread(target=run, name="s3-aside", daemon=True).start()
    except RuntimeError as error:  # the system's limit, or the container's
        raise Transient(str(error)) from error
    return future
