"""Handlers driven by RequestTask see what they would see in an asyncio.Task."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from csi_slayer.fuse.task import RequestTask

Handler = Callable[[], Coroutine[Any, Any, Any]]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.get_loop()


class Driver:
    """Starts handlers as the dispatcher does: from a callback, where no task is current."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.inline: bool | None = None

    def begin(self, handler: Handler) -> tuple[RequestTask, asyncio.Future[RequestTask]]:
        done: asyncio.Future[RequestTask] = self.loop.create_future()
        task = RequestTask(self.loop, done.set_result)

        def start() -> None:
            self.inline = task.start(handler(), contextvars.copy_context())
            if self.inline:
                done.set_result(task)

        self.loop.call_soon(start)
        return task, done

    def cancel_later(self, task: RequestTask, turns: int = 3) -> None:
        """Cancel it that many turns of the loop after what was begun before has started."""
        if turns:
            self.loop.call_soon(self.cancel_later, task, turns - 1)
        else:
            assert task.cancel()

    def run(self, handler: Handler) -> Any:
        _, done = self.begin(handler)

        async def wait() -> RequestTask:
            async with asyncio.timeout(10):
                return await done

        task = self.loop.run_until_complete(wait())
        assert task.done()
        if task.error is not None:
            raise task.error
        return task.result


@pytest.fixture
def driver(loop: asyncio.AbstractEventLoop) -> Driver:
    return Driver(loop)


def test_a_handler_that_does_not_wait_ends_inline(driver: Driver) -> None:
    async def handler() -> int:
        return 5

    assert driver.run(handler) == 5
    assert driver.inline


def test_a_handler_that_waits_goes_on_later(driver: Driver) -> None:
    async def handler() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return "later"

    assert driver.run(handler) == "later"
    assert driver.inline is False


def test_errors_are_kept(driver: Driver) -> None:
    async def inline() -> None:
        raise KeyError("inline")

    async def later() -> None:
        await asyncio.sleep(0)
        raise KeyError("later")

    for handler in (inline, later):
        with pytest.raises(KeyError, match=handler.__name__):
            driver.run(handler)


def test_it_is_the_current_task_before_and_after_a_wait(driver: Driver) -> None:
    async def handler() -> list[object]:
        seen: list[object] = [asyncio.current_task()]
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        return seen

    task, done = driver.begin(handler)
    driver.loop.run_until_complete(done)
    assert task.result == [task, task]


def test_no_task_is_current_afterwards(driver: Driver) -> None:
    async def handler() -> None:
        await asyncio.sleep(0)

    driver.run(handler)
    assert asyncio.current_task(driver.loop) is None


def test_a_failing_future_raises_where_it_is_awaited(driver: Driver) -> None:
    async def handler() -> str:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, ZeroDivisionError())
        try:
            await future
        except ZeroDivisionError:
            return "caught"
        return "missed"

    assert driver.run(handler) == "caught"


def test_locks_events_and_semaphores(driver: Driver) -> None:
    async def handler() -> list[str]:
        lock, event, log = asyncio.Lock(), asyncio.Event(), list[str]()

        async def other() -> None:
            async with lock:
                log.append("other has the lock")
                event.set()
                await asyncio.sleep(0)

        child = asyncio.ensure_future(other())
        await event.wait()
        async with lock:
            log.append("handler has the lock")
        await child
        return log

    assert driver.run(handler) == ["other has the lock", "handler has the lock"]


def test_gather_and_executor(driver: Driver) -> None:
    async def handler() -> tuple[Any, ...]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            asyncio.sleep(0, "a"), loop.run_in_executor(None, time.sleep, 0), asyncio.sleep(0, "b")
        )

    assert tuple(driver.run(handler)) == ("a", None, "b")


async def _forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("started", [False, True], ids=["inline", "after a wait"])
def test_a_timeout_is_a_timeout_error(driver: Driver, started: bool) -> None:
    async def handler() -> str:
        if started:
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.01):
                await _forever()
        except TimeoutError:
            task = asyncio.current_task()
            assert task is not None
            return f"timeout, {task.cancelling()} cancellations left"
        return "no timeout"

    assert driver.run(handler) == "timeout, 0 cancellations left"


def test_a_timeout_that_is_over_already(driver: Driver) -> None:
    async def handler() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(1)
        except TimeoutError:
            return "timeout"
        return "no timeout"

    assert driver.run(handler) == "timeout"


def test_wait_for(driver: Driver) -> None:
    async def handler() -> str:
        assert await asyncio.wait_for(asyncio.sleep(0, "in time"), 5) == "in time"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_forever(), 0.01)
        return "done"

    assert driver.run(handler) == "done"


def test_a_task_group_waits_and_cancels_its_others(driver: Driver) -> None:
    async def handler() -> tuple[list[str], str]:
        ended: list[str] = []

        async def waits() -> None:
            try:
                await _forever()
            finally:
                ended.append("cancelled")

        async def fails() -> None:
            await asyncio.sleep(0)
            raise KeyError("x")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(fails())
        except* KeyError:
            pass
        await asyncio.sleep(0)
        return ended, "went on"

    assert driver.run(handler) == (["cancelled"], "went on")


def test_cancelling_reaches_the_innermost_wait(driver: Driver) -> None:
    log: list[str] = []

    async def inner() -> None:
        try:
            await _forever()
        except asyncio.CancelledError:
            log.append("inner")
            await asyncio.sleep(0)
            raise

    async def handler() -> None:
        try:
            await asyncio.gather(inner(), asyncio.sleep(0))
        finally:
            log.append("handler")

    task, done = driver.begin(handler)
    driver.cancel_later(task)
    driver.loop.run_until_complete(asyncio.wait_for(done, 5))
    assert isinstance(task.error, asyncio.CancelledError)
    assert log == ["inner", "handler"] or log == ["handler", "inner"]


def test_cancelling_before_a_bare_yield_goes_on(driver: Driver) -> None:
    async def handler() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        for _ in range(5):
            await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        driver.run(handler)


def test_a_handler_that_cancels_itself(driver: Driver) -> None:
    async def handler() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await _forever()

    with pytest.raises(asyncio.CancelledError):
        driver.run(handler)


def test_a_finished_one_cannot_be_cancelled(driver: Driver) -> None:
    async def handler() -> None:
        await asyncio.sleep(0)

    task, done = driver.begin(handler)
    driver.loop.run_until_complete(done)
    assert task.cancel() is False


def test_a_result_is_kept_though_a_cancellation_came_too_late(driver: Driver) -> None:
    async def handler() -> str:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "kept"

    assert driver.run(handler) == "kept"


def test_shielded_work_goes_on(driver: Driver) -> None:
    finished: list[bool] = []
    go_on = asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        finished.append(True)

    async def handler() -> None:
        await asyncio.shield(asyncio.ensure_future(work()))

    task, done = driver.begin(handler)
    driver.cancel_later(task)
    driver.loop.run_until_complete(asyncio.wait_for(done, 5))
    assert isinstance(task.error, asyncio.CancelledError)
    assert finished == []
    go_on.set()
    driver.loop.run_until_complete(asyncio.sleep(0))
    driver.loop.run_until_complete(asyncio.sleep(0))
    assert finished == [True]


def test_context_variables_stay_with_their_handler(driver: Driver) -> None:
    seen: list[str] = []

    def one(value: str) -> Handler:
        async def handler() -> None:
            assert variable.get() == "none"
            token = variable.set(value)
            await asyncio.sleep(0)
            seen.append(variable.get())
            await asyncio.sleep(0)
            variable.reset(token)

        return handler

    begun = [driver.begin(one(value)) for value in ("a", "b")]
    for task, done in begun:
        driver.loop.run_until_complete(done)
        assert task.error is None
    assert seen == ["a", "b"]
    assert variable.get() == "none"


def test_awaiting_what_is_no_future_is_an_error(driver: Driver) -> None:
    class Odd:
        def __await__(self) -> Iterator[str]:
            yield "odd"

    async def handler() -> None:
        odd: Awaitable[None] = Odd()  # type: ignore[assignment]
        await odd

    with pytest.raises(RuntimeError, match="yielded str"):
        driver.run(handler)


def test_one_that_ended_inline_serves_again(driver: Driver) -> None:
    task = RequestTask(driver.loop)

    async def cancels_itself() -> str:
        task.cancel()
        return "first"

    async def waits() -> str:
        await asyncio.sleep(0)
        return "second"

    def both() -> None:
        assert task.start(cancels_itself(), contextvars.copy_context())
        assert task.result == "first"
        assert not task.start(waits(), contextvars.copy_context())

    driver.loop.call_soon(both)
    driver.loop.run_until_complete(asyncio.sleep(0.01))
    assert task.result == "second"
    assert task.error is None
