"""Running a handler's coroutine: inline until it waits for something, then as a task.

An ``asyncio.Task`` starts on the next turn of the loop and costs several microseconds; most
handlers never wait. So a :class:`RequestTask` starts its coroutine at once, in the caller's turn,
and goes on with it when the future it waits for is done. It is asyncio's current task meanwhile,
by the functions that asyncio documents for implementers of tasks, so ``asyncio.timeout``,
``TaskGroup``, locks and context variables work in a handler. ``asyncio.all_tasks`` does not list
it: its owner is the session, which ends it.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, cast


class RequestTask:
    """The current task of a coroutine; the part of ``asyncio.Task`` that libraries use of one.

    After the end ``result`` or ``error`` is set. One that ended inline may be started again.
    """

    __slots__ = (
        "__weakref__", "_cancels", "_context", "_coro", "_loop", "_must_cancel", "_on_done",
        "_waiter", "error", "result",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_done: Callable[[Any], None] | None = None
    ) -> None:
        self._loop = loop
        self._on_done = on_done
        self._coro: Coroutine[Any, Any, Any] | None = None
        self._context: Context | None = None
        self._waiter: asyncio.Future[Any] | None = None
        self._must_cancel = False
        self._cancels = 0
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self, coro: Coroutine[Any, Any, Any], context: Context) -> bool:
        """Run to the end or to the first wait; True if it ended. Otherwise ``on_done`` is called
        with this task when it has. No task may be current."""
        self._coro = coro
        self._context = context
        self._must_cancel = False
        self._cancels = 0
        self.result = self.error = None
        return context.run(self._advance)

    def _advance(self, throw: BaseException | None = None) -> bool:
        coro = self._coro
        assert coro is not None
        if self._must_cancel:
            if not isinstance(throw, asyncio.CancelledError):
                throw = asyncio.CancelledError()
            self._must_cancel = False
        self._waiter = None
        me = cast("asyncio.Task[Any]", self)
        _enter_task(self._loop, me)
        try:
            waits_for = coro.send(None) if throw is None else coro.throw(throw)
        except StopIteration as stop:
            self.result = stop.value
        except BaseException as error:
            self.error = error
        else:
            self._wait(waits_for)
            return False
        finally:
            _leave_task(self._loop, me)
        self._coro = None
        return True

    def _wait(self, waits_for: Any) -> None:
        """Go on when ``waits_for``, which the coroutine yielded, is done."""
        # A future that is awaited says so by this attribute; None is yielded by sleep(0).
        if getattr(waits_for, "_asyncio_future_blocking", False):
            waits_for._asyncio_future_blocking = False
            waits_for.add_done_callback(self._wake, context=self._context)
            self._waiter = waits_for
            if self._must_cancel and waits_for.cancel():
                self._must_cancel = False
        elif waits_for is None:
            self._loop.call_soon(self._go_on, None, context=self._context)
        else:
            error = RuntimeError(f"a handler yielded {type(waits_for).__name__}")
            self._loop.call_soon(self._go_on, error, context=self._context)

    def _wake(self, future: asyncio.Future[Any]) -> None:
        try:
            future.result()
        except BaseException as error:
            self._go_on(error)
        else:
            self._go_on(None)

    def _go_on(self, throw: BaseException | None) -> None:
        if self._advance(throw) and self._on_done is not None:
            self._on_done(self)

    # What asyncio and libraries ask of a current task.

    def cancel(self, msg: object = None) -> bool:
        """Have CancelledError raised where the coroutine waits; False if it has ended."""
        if self._coro is None:
            return False
        self._cancels += 1
        if self._waiter is None or not self._waiter.cancel():
            self._must_cancel = True
        return True

    def cancelling(self) -> int:
        return self._cancels

    def uncancel(self) -> int:
        if self._cancels:
            self._cancels -= 1
            if self._cancels == 0:
                self._must_cancel = False
        return self._cancels

    def done(self) -> bool:
        return self._coro is None

    def get_coro(self) -> Coroutine[Any, Any, Any] | None:
        return self._coro

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def get_context(self) -> Context | None:
        return self._context

    def get_name(self) -> str:
        return "fuse-request"
