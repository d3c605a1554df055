"""The fault proxy is transparent without faults, and does exactly what each fault says."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.certs import make_certificate
from tests.support.faultproxy import FaultProxy
from tests.support.faults import (
    Blackhole,
    Cut,
    CutUpload,
    Delay,
    Header,
    LoseAnswer,
    Status,
    Truncate,
    WrongLength,
)
from tests.support.servers import S3Server
from tests.unit.support.origin import Origin

BODY = bytes(range(256)) * 4000  # about a megabyte


@pytest.fixture
def origin() -> Iterator[Origin]:
    server = Origin()
    server.objects["/b/key"] = BODY
    server.objects["/b/empty"] = b""
    yield server
    server.close()


@pytest.fixture
def proxy(origin: Origin) -> Iterator[FaultProxy]:
    with FaultProxy(origin.url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=20)
    yield connection
    connection.close()


def _get(client: http.client.HTTPConnection, path: str = "/b/key") -> tuple[int, bytes]:
    client.request("GET", path)
    answer = client.getresponse()
    return answer.status, answer.read()


def _put(client: http.client.HTTPConnection, path: str, content: bytes) -> int:
    client.request("PUT", path, body=content)
    answer = client.getresponse()
    answer.read()
    return answer.status


def test_forwards_unchanged_on_one_connection(
    client: http.client.HTTPConnection, proxy: FaultProxy, origin: Origin
) -> None:
    for _ in range(3):
        assert _get(client) == (200, BODY)
    assert _get(client, "/b/absent") == (404, b"absent")
    assert _get(client, "/b/empty") == (200, b"")
    assert origin.connections == 1
    assert set(origin.hosts) == {urlsplit(proxy.endpoint).netloc}
    first = proxy.seen("GetObject")[0]
    assert (first.target, first.status, first.answer_bytes) == ("/b/key", 200, len(BODY))
    assert proxy.count() == proxy.count("GetObject") == proxy.count(method="GET") == 5
    proxy.reset_counts()
    assert proxy.count() == 0


def test_uploads_and_heads(
    client: http.client.HTTPConnection, proxy: FaultProxy, origin: Origin
) -> None:
    client.request("PUT", "/b/new", body=BODY)
    assert client.getresponse().read() == b""
    client.request("PUT", "/b/chunked", body=iter([BODY[:1000], BODY[1000:]]), encode_chunked=True)
    assert client.getresponse().read() == b""
    assert origin.objects["/b/new"] == origin.objects["/b/chunked"] == BODY
    client.request("HEAD", "/b/new")
    head = client.getresponse()
    assert (head.read(), head.headers["Content-Length"]) == (b"", str(len(BODY)))
    assert _get(client, "/b/chunked?chunked") == (200, BODY)
    assert origin.connections == 1
    assert [seen.kind for seen in proxy.seen()] == [
        "PutObject", "PutObject", "HeadObject", "GetObject",
    ]  # fmt: skip


def test_a_status_comes_so_often_and_then_no_more(
    client: http.client.HTTPConnection, proxy: FaultProxy, origin: Origin
) -> None:
    rule = proxy.inject(Status(503, "SlowDown", retry_after=2), kind="GetObject", times=2)
    client.request("GET", "/b/key")
    answer = client.getresponse()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert b"<Code>SlowDown</Code>" in answer.read()
    assert _get(client)[0] == 503
    assert _get(client) == (200, BODY)
    assert rule.hits == 2
    assert len(origin.hosts) == 1


def test_a_refused_upload_never_reaches_the_origin(
    client: http.client.HTTPConnection, proxy: FaultProxy, origin: Origin
) -> None:
    rule = proxy.inject(Status(500), method="PUT")
    client.request("PUT", "/b/new", body=BODY)
    answer = client.getresponse()
    assert (answer.status, b"InternalError" in answer.read()) == (500, True)
    proxy.remove(rule)
    assert _get(client, "/b/new")[0] == 404


def test_rules_choose_by_path_count_and_chance(
    client: http.client.HTTPConnection, proxy: FaultProxy
) -> None:
    by_path = proxy.inject(Status(500), path=r"^/b/k", skip=1)
    assert [_get(client, path)[0] for path in ("/b/empty", "/b/key", "/b/key")] == [200, 200, 500]
    proxy.remove(by_path)
    proxy.inject(Status(500), fraction=0.5)
    failed = sum(_get(client, "/b/empty")[0] == 500 for _ in range(100))
    assert 20 < failed < 80  # the proxy's seed makes it the same number each time
    proxy.heal()
    assert _get(client)[0] == 200


@pytest.mark.parametrize("fault", [Cut(1000), Cut(0), Truncate(0), Truncate(100_000)])
def test_a_body_breaks_off(
    client: http.client.HTTPConnection, proxy: FaultProxy, fault: Cut | Truncate
) -> None:
    proxy.inject(fault, times=1)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as caught:
        _get(client)
    if isinstance(fault, Truncate):
        assert isinstance(caught.value, http.client.IncompleteRead)
        assert caught.value.partial == BODY[: fault.keep]
    client.close()
    assert _get(client) == (200, BODY)


@pytest.mark.parametrize("delta", [-1, -300_000, 1, 5000])
def test_a_wrong_length_is_a_wellformed_answer(
    client: http.client.HTTPConnection, proxy: FaultProxy, delta: int
) -> None:
    proxy.inject(WrongLength(delta), times=1)
    expected = BODY[:delta] if delta < 0 else BODY + bytes(delta)
    assert _get(client) == (200, expected)
    assert _get(client) == (200, BODY)


def test_headers_lie(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    proxy.inject(Header("ETag", '"false"'))
    proxy.inject(Header("Content-Range", "bytes 5-9/10"))
    proxy.inject(Header("Date", None))
    client.request("GET", "/b/key")
    answer = client.getresponse()
    assert answer.read() == BODY
    assert answer.headers.get_all("ETag") == ['"false"']
    assert answer.headers["Content-Range"] == "bytes 5-9/10"
    assert answer.headers["Date"] is None


def test_a_lost_answer_was_carried_out(
    client: http.client.HTTPConnection, proxy: FaultProxy, origin: Origin
) -> None:
    proxy.inject(LoseAnswer(), kind="PutObject", times=1)
    with pytest.raises(ConnectionError):
        _put(client, "/b/new", b"content")
    assert origin.objects["/b/new"] == b"content"


def test_a_cut_upload_was_not_carried_out(
    client: http.client.HTTPConnection, proxy: FaultProxy, origin: Origin
) -> None:
    proxy.inject(CutUpload(1000), times=1)
    with pytest.raises(ConnectionError):
        _put(client, "/b/new", BODY)
    client.close()
    assert _get(client, "/b/new")[0] == 404


@pytest.mark.parametrize("fault", [Blackhole(), Delay(3600)])
def test_a_held_request_is_not_forwarded(
    proxy: FaultProxy, origin: Origin, fault: Blackhole | Delay
) -> None:
    proxy.inject(fault, kind="GetObject")
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=20)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            _get(connection)
        except ConnectionError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    proxy.wait_for(1, "GetObject")
    assert origin.hosts == []
    proxy.drop_connections()
    thread.join()
    connection.close()
    assert len(errors) == 1


def test_wait_for_gives_up(proxy: FaultProxy) -> None:
    with pytest.raises(TimeoutError):
        proxy.wait_for(1, timeout=0.01)


def test_a_server_goes_away_and_comes_back(
    client: http.client.HTTPConnection, proxy: FaultProxy
) -> None:
    assert _get(client)[0] == 200
    proxy.go_away()
    with pytest.raises(ConnectionError):
        _get(client)
    client.close()
    with pytest.raises(ConnectionRefusedError):
        _get(client)
    client.close()
    proxy.come_back()
    assert _get(client) == (200, BODY)


def test_a_connection_that_comes_while_it_goes_away_is_reset(origin: Origin) -> None:
    """It was served nevertheless, or its task was pending when the loop was closed, which a later
    test was told of."""
    for turns in range(8):
        proxy = FaultProxy(origin.url)
        with socket.socket() as late:
            late.settimeout(20)

            async def meet(proxy: FaultProxy, late: socket.socket, turns: int) -> None:
                late.connect(("127.0.0.1", urlsplit(proxy.endpoint).port))
                late.sendall(b"GET /b/key HTTP/1.1\r\nHost: x\r\n\r\n")
                for _ in range(turns):
                    await asyncio.sleep(0)
                await proxy._stop()

            proxy._call(meet(proxy, late, turns))
            with pytest.raises(ConnectionResetError):
                late.recv(1)
        proxy.close()
        assert not asyncio.all_tasks(proxy._loop)


def test_serves_tls(origin: Origin, tmp_path: Path) -> None:
    authority, context = make_certificate(tmp_path)
    with FaultProxy(origin.url, tls=context) as proxy:
        trusting = ssl.create_default_context(cafile=str(authority))
        address = urlsplit(proxy.endpoint).netloc
        client = http.client.HTTPSConnection(address, timeout=20, context=trusting)
        assert _get(client) == (200, BODY)
        client.close()
        stranger = http.client.HTTPSConnection(address, timeout=20)
        with pytest.raises(ssl.SSLCertVerificationError):
            _get(stranger)
        stranger.close()


@pytest.mark.integration
def test_signed_requests_pass_to_real_servers(s3_server: S3Server, bucket: str) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        through = s3_server.through(proxy.endpoint)
        # Large enough for boto3 to ask with Expect: 100-continue.
        through.put(bucket, "key", BODY * 3)
        proxy.inject(Status(503, "SlowDown"), times=1)
        assert through.get(bucket, "key") == BODY * 3
        assert through.keys(bucket) == ["key"]
        through.delete(bucket, "key")
        kinds = {seen.kind for seen in proxy.seen()}
    assert kinds == {"PutObject", "GetObject", "ListObjectsV2", "DeleteObject"}
    assert s3_server.admin.keys(bucket) == []
