"""Small requests: connections are reused, bounded, replaced when stale, dropped when odd."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from csi_slayer.errors import StoreIntegrityError, StoreUnavailable
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.answer import Answer, AnswerReader, BadAnswer
from csi_slayer.store.s3.pool import ConnectionPool
from csi_slayer.store.s3.resolver import Resolver
from csi_slayer.store.s3.target import Target, connect_failure
from tests.unit.store.scripted import answer, read_request, serving

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, 20))


async def _get(pool: ConnectionPool, limit: int = 1 << 20) -> Answer:
    return await pool.request(GET, b"", AnswerReader(limit))


async def _repeated(pool: ConnectionPool) -> Answer:
    """As the retry policy does where it need not wait: the close had not yet been seen."""
    try:
        return await _get(pool)
    except Transient as failure:
        if not failure.immediate:
            raise
        return await _get(pool)


async def _serve_number(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
) -> None:
    while await read_request(reader):
        writer.write(answer(str(number).encode()))


def test_a_connection_is_used_again() -> None:
    async def body() -> None:
        async with serving(_serve_number) as pool:
            assert [(await _get(pool)).body for _ in range(3)] == [b"1", b"1", b"1"]

    run(body())


def test_no_more_connections_than_allowed() -> None:
    async def body() -> None:
        async with serving(_serve_number, size=3) as pool:
            answers = await asyncio.gather(*[_get(pool) for _ in range(50)])
            assert {a.body for a in answers} <= {b"1", b"2", b"3"}

    run(body())


def test_chunked_interim_and_head_answers() -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        writer.write(b"2\r\nde\r\n0\r\n\r\n")
        await read_request(reader)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "e"\r\n\r\n')
        await read_request(reader)
        writer.write(answer(b"after"))

    async def body() -> None:
        async with serving(handler) as pool:
            first = await _get(pool)
            assert (first.status, first.body) == (200, b"abcde")
            assert "x-interim" not in first.headers
            head = await pool.request(HEAD, b"", AnswerReader(10, bodiless=True))
            assert (head.body, head.headers["etag"]) == (b"", '"e"')
            assert (await _get(pool)).body == b"after"

    run(body())


@pytest.mark.parametrize(
    ("sent", "error", "message"),
    [
        (b"", Transient, "cut before the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Transient, "cut before the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", Transient, "cut within the answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nab", Transient, "cut within the answer"),
        (b"SSH-2.0-server\r\n\r\n", StoreIntegrityError, "not an HTTP answer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b"x" * 99,
            StoreIntegrityError,
            "larger",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, StoreIntegrityError, "too large"),
    ],
)
def test_broken_answers(sent: bytes, error: type[Exception], message: str) -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        await read_request(reader)
        writer.write(sent if number == 1 else answer(b"good"))
        await writer.drain()

    async def body() -> None:
        async with serving(handler) as pool:
            with pytest.raises(error, match=message):
                await _get(pool, limit=50)
            assert (await _get(pool)).body == b"good"

    run(body())


def test_a_head_without_end_is_given_up_before_it_is_as_large_as_a_body() -> None:
    """One of 16 MB was kept for each of the answers under way: hundreds of MB together."""
    reader = AnswerReader(8 << 20)
    reader.feed(b"HTTP/1.1 200 OK\r\n")
    for number in range(60):
        reader.feed(b"X-%d: %s\r\n" % (number, b"x" * 1000))
    with pytest.raises(BadAnswer, match="head of the answer is too large"):
        reader.feed(b"X: " + b"x" * 10_000)


def test_an_error_may_end_with_the_connection() -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\nwords")

    async def body() -> None:
        async with serving(handler) as pool:
            assert (await _get(pool)).status == 502

    run(body())


def test_a_connection_that_closed_while_idle_is_not_used() -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        await read_request(reader)
        writer.write(answer(str(number).encode()))
        await writer.drain()

    async def body() -> None:
        async with serving(handler) as pool:
            for number in range(1, 6):
                assert int((await _repeated(pool)).body) >= number

    run(body())


def test_silence_has_a_limit() -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        await read_request(reader)
        await asyncio.sleep(60)

    async def body() -> None:
        async with serving(handler, size=1, silence=0.2) as pool:
            first, second = await asyncio.gather(_get(pool), _get(pool), return_exceptions=True)
            assert isinstance(first, Transient)
            assert "no answer within 0.2 s" in str(first)
            assert isinstance(second, Transient)

    run(body())


def test_a_slow_but_living_answer_is_waited_for() -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b"x")

    async def body() -> None:
        async with serving(handler, silence=0.6) as pool:
            assert (await _get(pool)).body == b"x" * 10

    run(body())


def test_cancelled_requests_give_their_places_back() -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while await read_request(reader):
            if number <= 2:
                await asyncio.sleep(60)
            writer.write(answer(b"good"))

    async def body() -> None:
        async with serving(handler, size=2) as pool:
            tasks = [asyncio.ensure_future(_get(pool)) for _ in range(5)]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            answers = await asyncio.gather(*[_get(pool) for _ in range(10)])
            assert all(a.body == b"good" for a in answers)

    run(body())


def test_closing_fails_what_waits() -> None:
    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        await read_request(reader)
        await asyncio.sleep(60)

    async def body() -> None:
        async with serving(handler, size=1) as pool:
            tasks = [asyncio.ensure_future(_get(pool)) for _ in range(3)]
            await asyncio.sleep(0.05)
            await pool.close()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(a, Transient) for a in answers)

    run(body())


def test_nobody_listens() -> None:
    async def body() -> None:
        async with serving(_serve_number) as pool:
            await pool.close()
        closed = ConnectionPool(pool._target, Resolver(pool._target), 2)
        for _ in range(3):
            with pytest.raises(Transient, match="connection refused: check the endpoint"):
                await _get(closed)
        await closed.close()

    run(body())


def test_a_connection_that_ends_while_it_is_handed_over_is_not_used() -> None:
    """A server or gateway may say something nobody asked for (408), and close."""

    async def body() -> None:
        async with serving(_serve_number, size=1) as pool:
            first = asyncio.create_task(_get(pool))
            second = asyncio.create_task(_get(pool))
            handed_over = pool._wake

            def and_cut(connection: Any) -> bool:
                pool._wake = handed_over  # type: ignore[method-assign]
                connection.data_received(answer(b"", "408 Request Timeout"))
                return handed_over(connection)

            await asyncio.sleep(0)
            pool._wake = and_cut  # type: ignore[method-assign]
            assert (await first).body == b"1"
            assert (await second).body == b"2"
            assert (await _get(pool)).body == b"2"

    run(body())


def test_names_that_nobody_answers_for_keep_no_other_name_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Event loops have four threads for names: four volumes with such an endpoint were enough."""
    answered = threading.Event()
    asked: list[str] = []

    def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        if host != "good":
            answered.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def body() -> None:
        lost = [Resolver(Target(f"lost-{n}", 80, 0.05, 1.0, None, None)) for n in range(8)]
        for _ in range(2):
            for result in await asyncio.gather(
                *[resolver.addresses() for resolver in lost], return_exceptions=True
            ):
                assert isinstance(result, Transient)
        while len(asked) < len(lost):  # noqa: ASYNC110 - by threads
            await asyncio.sleep(0.005)
        assert len(asked) == len(lost)  # and not asked again as long as that lasts
        assert await Resolver(Target("good", 80, 5.0, 1.0, None, None)).addresses()
        answered.set()
        found: Any = ()
        while not found:  # it is waited for no longer than before, and its thread may be slow
            with contextlib.suppress(Transient):
                found = await lost[0].addresses()

    run(body())


def test_without_a_thread_the_old_addresses_serve_and_otherwise_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a container may have no more threads, requests ended with a traceback."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def body() -> None:
        known = Resolver(Target("127.0.0.1", 80, 5.0, 1.0, None, None))
        before = await known.addresses()
        known.forget()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert await known.addresses() == before
        with pytest.raises(Transient, match="can't start new thread"):
            await Resolver(Target("127.0.0.1", 80, 5.0, 1.0, None, None)).addresses()

    run(body())


@pytest.mark.parametrize(
    ("code", "advice"),
    [(9, "check this machine's clock"), (10, "check this machine's clock"), (18, "ca_bundle")],
)
def test_a_certificate_of_another_time_may_be_a_matter_of_the_clock(code: int, advice: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "words"
    failure = connect_failure(Target("host", 1, 5.0, 5.0), error)
    assert isinstance(failure, StoreUnavailable)
    assert advice in str(failure)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_that_is_what_is_said_in_the_end(number: int) -> None:
    failure = connect_failure(Target("host", 1, 5.0, 5.0), OSError(number, os.strerror(number)))
    assert isinstance(failure, Transient)
    assert failure.outcome.errno == errno.ENFILE
