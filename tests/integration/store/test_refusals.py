"""What is wrong with a mount's configuration is said in one clear line, and soon."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import (
    AccessDenied,
    BucketNotFound,
    ConfigError,
    StoreError,
    StoreUnavailable,
)
from csi_slayer.store.options import CredentialOptions, StoreOptions
from tests.integration.store.conftest import Run
from tests.integration.store.proxies import ResettableProxy
from tests.integration.store.sinks import MemorySink
from tests.integration.store.stores import open_store, options_for
from tests.support.certs import make_certificate
from tests.support.faults import Blackhole
from tests.support.servers import S3Server, free_port

pytestmark = pytest.mark.integration


def _refusal(run: Run[Any], url: str, options: StoreOptions) -> StoreError:
    """What check() says; the line has no secret in it."""

    async def body() -> StoreError:
        store = await open_store(url, options)
        try:
            with pytest.raises(StoreError) as caught:
                await store.check()
        finally:
            await store.close()
        return caught.value

    error: StoreError = run(body())
    assert "\n" not in str(error)
    secret = options.credentials.secret_key
    assert secret is None or secret not in str(error)
    return error


def test_wrong_credentials(run: Run[Any], s3_server: S3Server, bucket: str) -> None:
    wrong_secret = CredentialOptions(s3_server.access_key, "not-the-secret-key")
    error = _refusal(run, f"s3://{bucket}", options_for(s3_server, credentials=wrong_secret))
    assert isinstance(error, AccessDenied)
    assert "check the secret" in str(error)
    wrong_key = CredentialOptions("nobody-knows-me", "not-the-secret-key")
    error = _refusal(run, f"s3://{bucket}", options_for(s3_server, credentials=wrong_key))
    assert isinstance(error, AccessDenied)
    assert "check the key id" in str(error)
    error = _refusal(run, f"s3://{bucket}", options_for(s3_server, anonymous=True))
    assert isinstance(error, AccessDenied)


def test_missing_bucket(run: Run[Any], s3_server: S3Server) -> None:
    error = _refusal(run, "s3://no-such-bucket-here", options_for(s3_server))
    assert isinstance(error, BucketNotFound)
    assert "no-such-bucket-here" in str(error)


def test_nobody_listens(run: Run[Any], versitygw: S3Server) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    error = _refusal(run, "s3://bucket", options_for(versitygw, endpoint=endpoint))
    assert isinstance(error, StoreUnavailable)
    assert "connection refused: check the endpoint" in str(error)


def test_a_name_that_does_not_exist(run: Run[Any], versitygw: S3Server) -> None:
    options = options_for(versitygw, endpoint="http://s3.invalid:9000", check_deadline=1.0)
    error = _refusal(run, "s3://bucket", options)
    assert isinstance(error, StoreUnavailable)
    assert "cannot be resolved" in str(error) or "no answer" in str(error)


def test_a_server_that_says_nothing(run: Run[Any], versitygw: S3Server) -> None:
    with ResettableProxy(versitygw.endpoint) as proxy:
        proxy.inject(Blackhole())
        options = options_for(versitygw, endpoint=proxy.endpoint, check_deadline=0.5)
        error = _refusal(run, "s3://bucket", options)
    assert isinstance(error, StoreUnavailable)
    assert "no answer within 0.5 s" in str(error)


def test_a_server_that_speaks_no_s3(run: Run[Any], versitygw: S3Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>hi</html>"
                    )

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        options = options_for(versitygw, endpoint=f"http://127.0.0.1:{port}")
        error = _refusal(run, "s3://bucket", options)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "expected a listing, the server sent html" in str(error)


def test_tls(run: Run[Any], versitygw: S3Server, tmp_path: Path) -> None:
    authority, context = make_certificate(tmp_path)
    bucket = versitygw.create_bucket()
    with ResettableProxy(versitygw.endpoint, tls=context) as proxy:
        error = _refusal(run, f"s3://{bucket}", options_for(versitygw, endpoint=proxy.endpoint))
        assert isinstance(error, StoreUnavailable)
        assert "certificate is not trusted" in str(error)
        plain = proxy.endpoint.replace("https:", "http:")
        error = _refusal(
            run, f"s3://{bucket}", options_for(versitygw, endpoint=plain, check_deadline=1.0)
        )
        assert isinstance(error, StoreError)
        with pytest.raises(ConfigError, match="ca_bundle"):
            run(
                open_store(
                    "s3://b", options_for(versitygw, endpoint=proxy.endpoint, ca_bundle="/none")
                )
            )

        async def body(**options: Any) -> None:
            store = await open_store(
                f"s3://{bucket}", options_for(versitygw, endpoint=proxy.endpoint, **options)
            )
            content = b"0123456789abcdef" * 200_000
            path = tmp_path / "content"
            path.write_bytes(content)
            for _ in range(2):
                with path.open("rb") as file:
                    info = await store.put_file("big", file.fileno(), len(content))
                sink = MemorySink()
                await store.fetch(
                    "big", offset=0, length=len(content), if_match=info.etag, sink=sink
                )
                assert sink.content == content
                assert (await store.get("big", length=10))[1] == content[:10]
            await store.close()

        run(body(ca_bundle=str(authority)))
        run(body(verify_tls=False))
    https = versitygw.endpoint.replace("http:", "https:")
    error = _refusal(run, f"s3://{bucket}", options_for(versitygw, endpoint=https))
    assert "speaks https" in str(error)
    versitygw.admin.delete_bucket(bucket)


def test_missing_directory(run: Run[Any], tmp_path: Path) -> None:
    with pytest.raises(BucketNotFound, match="is no directory"):
        run(open_store(f"file://{tmp_path}/absent", StoreOptions()))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BucketNotFound, match="is no directory"):
        run(open_store(f"file://{tmp_path}/file", StoreOptions()))


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "http://x/y", "/tmp", "file://x", "s3://u@b/"])
def test_urls_that_are_no_store(run: Run[Any], url: str) -> None:
    with pytest.raises(ConfigError):
        run(open_store(url, StoreOptions(anonymous=True)))


def test_a_role_is_assumed_at_the_given_service(run: Run[Any], minio: S3Server) -> None:
    bucket = minio.create_bucket()
    credentials = CredentialOptions(
        minio.access_key,
        minio.secret_key,
        role_arn="arn:aws:iam::123456789012:role/any",
        sts_endpoint=minio.endpoint,
    )

    async def body() -> None:
        store = await open_store(f"s3://{bucket}", options_for(minio, credentials=credentials))
        await store.put("key", b"by the role")
        assert minio.admin.get(bucket, "key") == b"by the role"
        plain = await open_store(f"s3://{bucket}", options_for(minio))
        assert plain.identity != store.identity
        assert minio.access_key not in plain.identity
        await plain.close()
        await store.close()

    run(body())
    minio.admin.delete_bucket(bucket)
