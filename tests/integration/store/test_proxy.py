"""An https service that is asked through a real HTTP proxy."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from csi_slayer.errors import AccessDenied, StoreUnavailable
from csi_slayer.store.options import StoreOptions
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.proxy import parse_proxy
from csi_slayer.store.s3.sts import StsEndpoint, assume_with_token
from csi_slayer.store.s3.target import make_tls
from tests.integration.mount.s3volumes import s3_volume
from tests.integration.store.conftest import Run
from tests.integration.store.proxies import ResettableProxy
from tests.integration.store.sinks import MemorySink
from tests.integration.store.stores import open_store, options_for
from tests.support.certs import make_certificate
from tests.support.servers import S3Server
from tests.support.tinyproxy import tinyproxy

pytestmark = pytest.mark.integration

CONTENT = b"0123456789abcdef" * 200_000


def port_of(endpoint: str) -> int:
    port = urlsplit(endpoint).port
    assert port is not None
    return port


async def use(bucket: str, options: StoreOptions, path: Path) -> None:
    """Small requests and bulk transfers in both directions."""
    store = await open_store(f"s3://{bucket}", options)
    try:
        await store.check()
        await store.put("small", b"x")
        path.write_bytes(CONTENT)
        with path.open("rb") as file:
            info = await store.put_file("big", file.fileno(), len(CONTENT))
        sink = MemorySink()
        await store.fetch("big", offset=0, length=len(CONTENT), if_match=info.etag, sink=sink)
        assert sink.content == CONTENT
        assert (await store.get("small"))[1] == b"x"
    finally:
        await store.close()


@pytest.mark.parametrize("user", ["", "somebody pass.word"])
def test_through_a_proxy(run: Run[Any], s3_server: S3Server, tmp_path: Path, user: str) -> None:
    authority, context = make_certificate(tmp_path)
    bucket = s3_server.create_bucket()
    with (
        ResettableProxy(s3_server.endpoint, tls=context) as service,
        tinyproxy(tmp_path, to=port_of(service.endpoint), user=user) as proxy,
    ):
        url = proxy.url
        if user:
            pair = user.replace(" ", ":")
            url = url.replace("http://", f"http://{pair}@")
        options = options_for(
            s3_server, endpoint=service.endpoint, ca_bundle=str(authority), proxy=url
        )
        run(use(bucket, options, tmp_path / "content"))
        assert proxy.ways() >= 2, "of small requests and of transfers"


def refusal(run: Run[Any], options: StoreOptions) -> str:
    async def body() -> str:
        store = await open_store("s3://bucket", options)
        try:
            with pytest.raises(StoreUnavailable) as caught:
                await store.check()
            with pytest.raises(StoreUnavailable) as also:
                await store.fetch("k", offset=0, length=1, if_match="x", sink=MemorySink())
            assert str(also.value).partition(":")[2] or str(also.value)
        finally:
            await store.close()
        return str(caught.value)

    text: str = run(body())
    assert "\n" not in text
    return text


def test_what_the_proxy_refuses(run: Run[Any], versitygw: S3Server, tmp_path: Path) -> None:
    _authority, context = make_certificate(tmp_path)
    with ResettableProxy(versitygw.endpoint, tls=context) as service:
        with tinyproxy(tmp_path, to=port_of(service.endpoint), user="a b") as proxy:
            options = options_for(versitygw, endpoint=service.endpoint, proxy=proxy.url)
            assert "give store.proxy the user and password" in refusal(run, options)
            wrong = proxy.url.replace("http://", "http://a:not-the-password@")
            options = options_for(versitygw, endpoint=service.endpoint, proxy=wrong)
            text = refusal(run, options)
            assert "give store.proxy the user and password" in text or "401" in text
            assert "not-the-password" not in text
        with tinyproxy(tmp_path, to=1) as proxy:
            options = options_for(versitygw, endpoint=service.endpoint, proxy=proxy.url)
            assert "check the proxy's rules" in refusal(run, options)
        options = options_for(
            versitygw, endpoint=service.endpoint, proxy=proxy.url,
            check_deadline=0.5, retry_deadline=0.5,
        )  # fmt: skip
        text = refusal(run, options)
        assert "connection refused" in text
        assert proxy.url in text


@pytest.mark.parametrize("answer", [b"", b"220 mail.example ESMTP\r\n\r\n", None])
def test_what_is_no_proxy(run: Run[Any], versitygw: S3Server, answer: bytes | None) -> None:
    """It hangs up, speaks something else, or says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            kept = []
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    break
                if answer is None:
                    kept.append(client)
                    continue
                with client:
                    client.recv(4096)
                    client.sendall(answer)
            for client in kept:
                client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            options = options_for(
                versitygw, endpoint="https://s3.example", connect_timeout=0.5, retry_deadline=0.5,
                proxy=f"http://127.0.0.1:{server.getsockname()[1]}", check_deadline=0.5,
            )  # fmt: skip
            text = refusal(run, options)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert "https://s3.example" in text


def test_credentials_are_asked_for_through_it(minio: S3Server, tmp_path: Path) -> None:
    authority, context = make_certificate(tmp_path)
    with (
        ResettableProxy(minio.endpoint, tls=context) as service,
        tinyproxy(tmp_path, to=port_of(service.endpoint)) as proxy,
    ):
        way = parse_proxy(proxy.url, "proxy")
        endpoint = StsEndpoint(
            service.endpoint, "us-east-1", 5.0, make_tls(str(authority), True), way
        )
        with pytest.raises(AccessDenied, match="gave no credentials"):
            assume_with_token(endpoint, "arn:aws:iam::1:role/none", "no-token", "session")
        assert proxy.ways() == 1
        lost = replace(endpoint, proxy=replace(way, port=1))
        with pytest.raises(Transient, match="no credentials from"):
            assume_with_token(lost, "arn:aws:iam::1:role/none", "no-token", "session")


def test_a_mount(versitygw: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    authority, context = make_certificate(tmp_path)
    bucket = versitygw.create_bucket()
    with (
        ResettableProxy(versitygw.endpoint, tls=context) as service,
        tinyproxy(tmp_path, to=port_of(service.endpoint)) as proxy,
    ):
        options = [f"store.ca_bundle={authority}", f"store.proxy={proxy.url}"]
        mount = s3_volume(versitygw, bucket, tmp_path, endpoint=service.endpoint, options=options)
        request.addfinalizer(mount.close)
        mount.mount()
        (mount.root / "file").write_bytes(CONTENT)
        assert versitygw.admin.get(bucket, "file") == CONTENT
        mount.umount()
        assert proxy.ways() >= 2
