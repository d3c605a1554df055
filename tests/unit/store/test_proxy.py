"""Which proxy a service is asked through, and what its answer means."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from csi_slayer.errors import ConfigError, StoreUnavailable
from csi_slayer.store.open import open_store
from csi_slayer.store.options import CredentialOptions, StoreOptions
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.halt import Halt
from csi_slayer.store.s3.proxy import (
    MOST_HEAD_BYTES,
    VARIABLE,
    Proxy,
    TunnelRefused,
    check_answer,
    find_proxy,
    is_listed,
    parse_proxy,
)
from csi_slayer.store.s3.sockets import establish
from csi_slayer.store.s3.target import Target, connect_failure

PROXY = Proxy("proxy.example", 3128)
URL = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("options", "host", "environment", "expected"),
    [
        ({}, "s3.example", {}, None),
        ({}, "s3.example", {"HTTPS_PROXY": URL}, PROXY),
        ({}, "s3.example", {"https_proxy": URL, "HTTPS_PROXY": "http://other"}, PROXY),
        ({}, "s3.example", {"HTTPS_PROXY": ""}, None),
        ({}, "s3.example", {"HTTP_PROXY": URL}, None),
        ({}, "s3.example", {"HTTPS_PROXY": URL, "NO_PROXY": "a, .example"}, None),
        ({}, "s3.example", {"HTTPS_PROXY": URL, "no_proxy": "other", "NO_PROXY": "*"}, PROXY),
        ({}, "localhost", {"HTTPS_PROXY": URL}, None),
        ({}, "127.0.0.1", {"HTTPS_PROXY": URL}, None),
        ({}, "::1", {"HTTPS_PROXY": URL}, None),
        ({"proxy": URL}, "127.0.0.1", {}, PROXY),
        ({"proxy": URL}, "s3.example", {"HTTPS_PROXY": "http://other"}, PROXY),
        ({"proxy": URL}, "s3.example", {"NO_PROXY": "example"}, None),
        ({"proxy": URL, "no_proxy": ""}, "s3.example", {"NO_PROXY": "example"}, PROXY),
        ({"proxy": URL, "no_proxy": "10.0.0.0/8"}, "10.1.2.3", {}, None),
    ],
)
def test_which_one(
    options: dict[str, str], host: str, environment: dict[str, str], expected: Proxy | None
) -> None:
    assert find_proxy(StoreOptions(**options), host, 443, environment) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "listed", "expected"),
    [
        ("s3.example", "example", True),
        ("s3.example", ".example", True),
        ("s3.example", "*.example", True),
        ("S3.Example.", "s3.EXAMPLE", True),
        ("s3.example", "3.example", False),
        ("s3.example", "s3.example:443", True),
        ("s3.example", "s3.example:9000", False),
        ("s3.example", "*", True),
        ("s3.example", ",, ", False),
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "3", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "[fd00::1]:443", True),
        ("fd00::1", "[fd00::1]:80", False),
        ("fd00::1", "10.0.0.0/8", False),
        ("s3.example", "10.0.0.0/8 example", True),
    ],
)
def test_what_is_asked_directly(host: str, listed: str, expected: bool) -> None:
    assert is_listed(host, 443, listed) is expected


def test_who_needs_no_proxy_is_not_refused_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key pair nobody is asked for credentials."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    keys = CredentialOptions(access_key="id", secret_key="secret")

    async def opened(endpoint: str) -> None:
        store = await open_store("s3://bucket", StoreOptions(endpoint=endpoint, credentials=keys))
        await store.close()

    asyncio.run(opened("http://s3.example:9000"))
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        asyncio.run(opened("https://s3.example:9000"))


def test_urls() -> None:
    assert parse_proxy("proxy.example:3128", "it") == PROXY
    assert parse_proxy("http://proxy.example", "it").port == 80
    signed = parse_proxy("http://us%40er:p%3Ass@proxy.example:3128/", "it")
    assert signed.authorization == "Basic dXNAZXI6cDpzcw=="
    assert "dXNA" not in repr(signed) + str(signed)
    assert str(parse_proxy("http://[fd00::1]:3128", "it")) == "http://[fd00::1]:3128"


@pytest.mark.parametrize(
    "url", ["https://us:secret@proxy:1", "socks5://us:secret@proxy", "http://us:secret@",
            "http://us:secret@proxy:99999", "http://us:secret@[proxy"],
)  # fmt: skip
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY: expected http://host:port") as caught:
        parse_proxy(url, "HTTPS_PROXY")
    assert "secret" not in str(caught.value)


def test_request() -> None:
    assert PROXY.request("s3.example", 443) == (
        b"CONNECT s3.example:443 HTTP/1.1\r\nHost: s3.example:443\r\n\r\n"
    )
    assert PROXY.request("fd00::1", 9000).startswith(b"CONNECT [fd00::1]:9000 HTTP/1.1\r\n")
    signed = Proxy("proxy", 1, "Basic eA==")
    assert signed.request("h", 1).endswith(b"\r\nProxy-Authorization: Basic eA==\r\n\r\n")


def test_answers() -> None:
    assert check_answer(b"HTTP/1.0 200 Connection established\r\n\r\n")
    assert check_answer(b"HTTP/1.1 200\r\nVia: x\r\n\r\n")
    assert not check_answer(b"HTTP/1.1 200 OK\r\nVia: x\r\n")
    assert not check_answer(b"")
    for head, status in [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", 407),
        (b"HTTP/1.1 502 Bad Gateway\r\nX: y\r\n\r\n", 502),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 0),
        (b"x" * MOST_HEAD_BYTES, 0),
    ]:
        with pytest.raises(TunnelRefused) as caught:
            check_answer(head)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (407, StoreUnavailable, "give store.proxy the user and password"),
        (403, StoreUnavailable, "the proxy's rules, or name the endpoint in store.no_proxy"),
        (502, Transient, "gives no way there"),
        (429, Transient, "gives no way there"),
        (0, StoreUnavailable, "the proxy's rules"),
    ],
)
def test_what_a_refusal_means(status: int, kind: type[Exception], text: str) -> None:
    target = Target("s3.example", 443, 5.0, 30.0, None, PROXY)
    failure = connect_failure(target, TunnelRefused(status, "why"))
    assert isinstance(failure, kind)
    assert text in str(failure)
    assert URL in str(failure)


def test_a_proxy_that_is_away() -> None:
    target = Target("s3.example", 443, 5.0, 30.0, None, PROXY)
    assert target.hop == ("proxy.example", 3128)
    failure = connect_failure(target, ConnectionRefusedError())
    assert isinstance(failure, Transient)
    assert "check the proxy's address (store.proxy)" in str(failure)


def test_what_the_environment_gave_is_to_be_mended_there() -> None:
    target = Target("s3.example", 443, 5.0, 30.0, None, parse_proxy(URL, VARIABLE))
    for error, text in (
        (TunnelRefused(407, "why"), "give HTTPS_PROXY the user and password"),
        (TunnelRefused(403, "why"), "name the endpoint in NO_PROXY"),
        (ConnectionRefusedError(), "check the proxy's address (HTTPS_PROXY)"),
    ):
        assert text in str(connect_failure(target, error))


def test_an_answer_that_comes_too_slowly() -> None:
    """Each byte of it comes in time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def drip() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                for _ in range(100):
                    client.sendall(b"x")
                    time.sleep(0.02)

        thread = threading.Thread(target=drip)
        thread.start()
        target = Target("s3.example", 443, 0.2, 5.0, None, Proxy("127.0.0.1", port))
        (place,) = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)
        with pytest.raises(TimeoutError):
            establish(target, place, Halt())
        thread.join()
