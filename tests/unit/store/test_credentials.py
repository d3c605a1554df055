"""Credentials: where they come from, when they are renewed, that they are never shown."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from csi_slayer.errors import AccessDenied, ConfigError
from csi_slayer.store.options import CredentialOptions, StoreOptions
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3 import sts as sts_module
from csi_slayer.store.s3.credentials import Credentials
from csi_slayer.store.s3.keys import AccessKeys
from csi_slayer.store.s3.proxy import OPTION, parse_proxy
from csi_slayer.store.s3.sources import choose_source
from csi_slayer.store.s3.sts import StsEndpoint

NOWHERE = StsEndpoint("http://127.0.0.1:9", "us-east-1", 1.0)


class Source:
    """Gives keys that last ``life`` seconds from ``now``; may be told to fail or to wait."""

    identity = "test"

    def __init__(self, life: float | None) -> None:
        self.life = life
        self.now = 1000.0
        self.set_by = 0.0
        self.loads = 0
        self.failure: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def load(self) -> AccessKeys:
        assert self.go_on.wait(10)
        self.loads += 1
        if self.failure is not None:
            raise self.failure
        expires = None if self.life is None else self.now + self.life
        return AccessKeys("AKID", "secret", f"token-{self.loads}", expires)


def _credentials(source: Source) -> Credentials:
    """Both clocks go with the source's; only one of them is set by ``source.set_by``."""
    return Credentials(
        source,
        "us-east-1",
        now=lambda: source.now + source.set_by,
        clock=lambda: source.now,
    )


def test_lasting_keys_are_loaded_once() -> None:
    async def body() -> None:
        source = Source(None)
        credentials = _credentials(source)
        await asyncio.gather(*[credentials.current() for _ in range(5)])
        source.now += 1e9
        await credentials.current()
        assert source.loads == 1

    asyncio.run(body())


def test_keys_are_renewed_ahead_while_the_old_ones_serve() -> None:
    async def body() -> None:
        source = Source(3600.0)
        credentials = _credentials(source)
        assert (await credentials.current()).token == "token-1"
        source.now += 2999
        assert (await credentials.current()).token == "token-1"
        assert source.loads == 1
        source.now += 2
        source.go_on.clear()
        assert (await credentials.current()).token == "token-1"
        source.go_on.set()
        await credentials.close()
        assert (await credentials.current()).token == "token-2"

    asyncio.run(body())


def test_ended_keys_are_waited_for() -> None:
    async def body() -> None:
        source = Source(3600.0)
        credentials = _credentials(source)
        await credentials.current()
        source.now += 3590
        got = await asyncio.gather(*[credentials.current() for _ in range(5)])
        assert {signed_by.token for signed_by in got} == {"token-2"}
        source.now += 4000
        source.failure = AccessDenied("no")
        with pytest.raises(AccessDenied):
            await credentials.current()

    asyncio.run(body())


def test_a_failed_renewal_ahead_is_not_repeated_at_once() -> None:
    async def body() -> None:
        source = Source(3600.0)
        credentials = _credentials(source)
        await credentials.current()
        source.now += 3100
        source.failure = Transient("away")
        for _ in range(5):
            assert (await credentials.current()).token == "token-1"
            await credentials.close()
        assert source.loads == 2
        source.now += 60
        source.failure = None
        await credentials.current()
        await credentials.close()
        assert (await credentials.current()).token == "token-3"

    asyncio.run(body())


def test_a_refusal_of_credentials_is_the_answer_for_a_while() -> None:
    async def body() -> None:
        source = Source(3600.0)
        credentials = _credentials(source)
        source.failure = AccessDenied("the token has ended")
        for _ in range(3):
            with pytest.raises(AccessDenied, match="the token has ended"):
                await credentials.current()
        assert source.loads == 1
        source.now += 3
        source.failure = None
        assert (await credentials.current()).token == "token-2"

    asyncio.run(body())


def test_a_refusal_renews_once_for_all() -> None:
    async def body() -> None:
        source = Source(3600.0)
        credentials = _credentials(source)
        await credentials.current()
        source.now += 100
        await asyncio.gather(*[credentials.refused() for _ in range(5)])
        await credentials.refused()
        assert source.loads == 2
        assert (await credentials.current()).token == "token-2"

    asyncio.run(body())


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_set_changes_nothing(hours: int) -> None:
    async def body() -> None:
        source = Source(3600.0)
        credentials = _credentials(source)
        await credentials.current()
        source.set_by = hours * 3600.0
        for _ in range(3):
            assert (await credentials.current()).token == "token-1"
        assert source.loads == 1
        source.now += 10
        await credentials.refused()
        assert (await credentials.current()).token == "token-2"
        source.failure = AccessDenied("no")
        source.now += 10
        with pytest.raises(AccessDenied):
            await credentials.refused()
        source.set_by -= 3600.0
        source.now += 3
        source.failure = None
        await credentials.refused()
        assert (await credentials.current()).token == "token-4"

    asyncio.run(body())


def test_a_refusal_to_give_any_lasts_no_longer_if_the_clock_is_set_back() -> None:
    async def body() -> None:
        source = Source(3600.0)
        credentials = _credentials(source)
        source.failure = AccessDenied("no")
        with pytest.raises(AccessDenied):
            await credentials.current()
        source.set_by = -7200.0
        source.now += 3
        source.failure = None
        assert (await credentials.current()).token == "token-2"

    asyncio.run(body())


def test_keys_that_have_ended_by_a_clock_that_is_ahead_are_used() -> None:
    """Each request would ask for new ones otherwise."""

    async def body() -> None:
        source = Source(3600.0)
        source.set_by = 5 * 3600.0
        credentials = _credentials(source)
        for _ in range(5):
            assert (await credentials.current()).token == "token-1"
        await credentials.close()
        assert source.loads == 1

    asyncio.run(body())


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No AWS settings, and no service of the surroundings that could be asked for some."""
    import os

    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return monkeypatch


def test_given_keys_are_all_that_is_looked_at(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "other")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "other")
    source = choose_source(CredentialOptions("AKID", "secret", "token"), NOWHERE)
    keys = source.load()
    assert (keys.access_key, keys.secret_key, keys.session_token) == ("AKID", "secret", "token")
    assert "AKID" in source.identity
    assert "secret" not in source.identity


def test_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "from-env")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
    source = choose_source(CredentialOptions(), NOWHERE)
    assert source.load().access_key == "from-env"
    assert source.identity == "key:from-env"


def test_a_profile(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[work]\naws_access_key_id = from-profile\naws_secret_access_key = profile-secret\n"
    )
    source = choose_source(CredentialOptions(profile="work"), NOWHERE)
    assert source.load().access_key == "from-profile"
    with pytest.raises(AccessDenied, match="absent"):
        choose_source(CredentialOptions(profile="absent"), NOWHERE).load()


def test_a_session_that_others_renew_in_a_file_is_found(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing in the file says when it ends: the server does."""

    async def body() -> None:
        lines = "[work]\naws_access_key_id = AKID\naws_secret_access_key = s\n"
        (tmp_path / "credentials").write_text(lines)
        source = choose_source(CredentialOptions(profile="work"), NOWHERE)
        now = 0.0
        credentials = Credentials(source, "us-east-1", clock=lambda: now)
        await credentials.current()
        assert not credentials.temporary
        for token in ("first", "second"):
            (tmp_path / "credentials").write_text(f"{lines}aws_session_token = {token}\n")
            now += 10
            await credentials.refused()
            assert credentials.temporary
            assert (await credentials.current()).token == token

    asyncio.run(body())


def test_what_the_chain_gives_may_have_ended_by_our_clock(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {
        "Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s", "SessionToken": "t",
        "Expiration": "2001-01-01T00:00:00Z",
    }  # fmt: skip
    (tmp_path / "given").write_text(json.dumps(given))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/given\n")
    with pytest.raises(AccessDenied, match=r"still expired\. Check this machine's clock"):
        choose_source(CredentialOptions(), NOWHERE).load()


def test_nothing_found(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessDenied, match="no credentials found: give"):
        choose_source(CredentialOptions(), NOWHERE).load()


def test_what_surrounds_the_process_is_refused_where_it_is_not_wanted(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "from-env")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
    for options in (
        CredentialOptions(ambient=False),
        CredentialOptions(ambient=False, profile="work"),
        CredentialOptions(ambient=False, role_arn="arn:role"),
    ):
        with pytest.raises(AccessDenied, match="no credentials came"):
            choose_source(options, NOWHERE)
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    environment.setenv("AWS_ROLE_ARN", "arn:driver")
    with pytest.raises(AccessDenied, match="no credentials came"):
        choose_source(CredentialOptions(ambient=False), NOWHERE)
    given = CredentialOptions("AKID", "secret", ambient=False)
    assert choose_source(given, NOWHERE).load().access_key == "AKID"


@pytest.mark.parametrize(
    "keys",
    [
        ("AKI\u0410", "hunter2"),
        ("AKIA", "hun\nter2"),
        ("AKIA", "hunter2", "x\r\ny: z"),
        ("A B", "c"),
    ],
)
def test_keys_that_cannot_be_sent_are_refused_before_they_are(keys: tuple[str, ...]) -> None:
    with pytest.raises(AccessDenied, match="expected printable ASCII") as caught:
        choose_source(CredentialOptions(*keys), NOWHERE)
    assert not any(text in str(caught.value) for text in ("hunter2", "ter2", "AKI"))


class Sts(ThreadingHTTPServer):
    """Answers as told and remembers the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body = (
            "<R xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><Credentials>"
            "<AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
            "<SessionToken>t</SessionToken><Expiration>2026-11-24T11:40:00Z</Expiration>"
            "</Credentials></R>"
        )
        self.ahead = 0.0
        self.silent = 0.0
        self.requests: list[tuple[dict[str, str], str]] = []
        self.endpoint = StsEndpoint(f"http://127.0.0.1:{self.server_address[1]}", "us-east-1", 5.0)


class _Handler(BaseHTTPRequestHandler):
    server: Sts

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(int(time.time() + self.server.ahead))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((headers, body))
        stamp = headers.get("x-amz-date")
        if stamp is not None:
            signed = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            if abs(time.time() + self.server.ahead - signed) > 900:
                self.send_error(403)
                return
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        time.sleep(self.server.silent)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(self.server.body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def sts() -> Iterator[Sts]:
    server = Sts()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _drip(listener: socket.socket, begin: bytes, end: threading.Event) -> None:
    """Answer one client with a byte now and then."""
    client, _ = listener.accept()
    with client, contextlib.suppress(OSError):
        client.recv(1 << 16)
        client.sendall(begin)
        while not end.wait(0.02):
            client.sendall(b" ")


@pytest.mark.parametrize("head", ["", "Content-Length: 9999\r\n\r\n", "X: "])
def test_a_service_that_never_ends_its_answer_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(sts_module, "_LONGEST_CALL", 0.005)
    begin = f"HTTP/1.1 200 OK\r\nConnection: close\r\n{head}".encode() if head else b""
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_drip, args=(listener, begin, end))
        thread.start()
        endpoint = StsEndpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", "us-east-1", 60.0)
        source = choose_source(CredentialOptions(role_arn="r", token="the-token"), endpoint)
        with pytest.raises(Transient, match=r"no whole answer within 0\.3 s"):
            source.load()
        end.set()
        thread.join()


def test_sources_that_wait_keep_no_other_thread_waiting() -> None:
    """The node service has a handful of threads for all volumes: as many owners with a service of
    their own that sent a byte now and then kept every other volume from its mount."""

    async def body() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        source = Source(None)
        source.go_on.clear()
        waiting = asyncio.create_task(_credentials(source).current())
        for _ in range(5):
            await asyncio.sleep(0)  # the renewal is a task of its own
        async with asyncio.timeout(5):
            await asyncio.to_thread(source.go_on.set)
        await waiting

    asyncio.run(body())


def test_a_given_token_with_and_without_a_role(sts: Sts) -> None:
    where = sts.endpoint.url
    with_role = CredentialOptions(role_arn="arn:role", token="the-token")
    without = CredentialOptions(token="the-token", sts_endpoint=where)
    assert choose_source(with_role, sts.endpoint).load().access_key == "ASIA"
    source = choose_source(without, sts.endpoint)
    source.load()
    assert "RoleArn=arn%3Arole" in sts.requests[0][1]
    assert "RoleArn" not in sts.requests[1][1]
    assert "WebIdentityToken=the-token" in sts.requests[1][1]
    assert "the-token" not in source.identity
    assert where in source.identity


def test_service_accounts_of_one_role_are_told_apart(sts: Sts) -> None:
    def identity(subject: str, number: int) -> str:
        said = json.dumps({"iss": "https://k8s", "sub": subject, "jti": number}).encode()
        token = f"head.{base64.urlsafe_b64encode(said).decode()}.signature"
        source = choose_source(CredentialOptions(role_arn="arn:role", token=token), sts.endpoint)
        source.load()
        return source.identity

    assert identity("cart", 1) == identity("cart", 2) != identity("mail", 3)


def test_a_service_that_repeats_the_token_does_not_give_it_away(sts: Sts) -> None:
    source = choose_source(CredentialOptions(role_arn="r", token="the-token"), sts.endpoint)
    sts.status = 400
    sts.body = "<R><Error><Code>Bad</Code><Message>what is the-token?</Message></Error></R>"
    with pytest.raises(AccessDenied, match=r"Bad: what is \*\*\*\?"):
        source.load()


@pytest.mark.parametrize("by", ["options", "environment"])
def test_web_identity(environment: pytest.MonkeyPatch, tmp_path: Path, sts: Sts, by: str) -> None:
    token = tmp_path / "token"
    token.write_text("first-token\n")
    options = CredentialOptions()
    if by == "options":
        options = CredentialOptions(role_arn="arn:role", token_file=str(token))
    else:
        environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        environment.setenv("AWS_ROLE_ARN", "arn:role")
    source = choose_source(options, sts.endpoint)
    keys = source.load()
    assert (keys.access_key, keys.secret_key, keys.session_token) == ("ASIA", "s", "t")
    assert keys.expires == 1795520400.0
    assert source.identity.startswith("role:arn:role:")
    token.write_text("second-token\n")
    source.load()
    headers, body = sts.requests[1]
    assert "authorization" not in headers
    assert "WebIdentityToken=second-token" in body
    assert "Action=AssumeRoleWithWebIdentity" in body
    assert "RoleArn=arn%3Arole" in body


def test_a_role_assumed_with_keys_is_signed(sts: Sts) -> None:
    options = CredentialOptions("AKID", "secret", role_arn="arn:role")
    assert choose_source(options, sts.endpoint).load().access_key == "ASIA"
    headers, body = sts.requests[0]
    assert "Credential=AKID/" in headers["authorization"]
    assert "/us-east-1/sts/aws4_request" in headers["authorization"]
    assert headers["user-agent"].startswith("slayerfs/")
    assert "Action=AssumeRole&" in body


@pytest.mark.parametrize("ahead", [-7200, 7200])
def test_a_role_is_assumed_on_a_machine_whose_clock_is_wrong(sts: Sts, ahead: int) -> None:
    sts.ahead = ahead
    with_keys = CredentialOptions("AKID", "secret", role_arn="arn:role")
    with_token = CredentialOptions(role_arn="arn:role", token="the-token")
    for options, requests in ((with_keys, 2), (with_token, 1)):
        sts.requests.clear()
        keys = choose_source(options, sts.endpoint).load()
        assert len(sts.requests) == requests
        assert keys.expires is not None
        assert abs(keys.expires - (1795520400.0 - ahead)) < 5


def _role_of_a_profile(config: Path) -> None:
    config.write_text(
        "[profile base]\naws_access_key_id = AKID\naws_secret_access_key = secret\n"
        "[profile work]\nrole_arn = arn:aws:iam::123456789012:role/work\nsource_profile = base\n"
    )


def test_the_role_of_a_profile_is_assumed_as_the_options_say(
    environment: pytest.MonkeyPatch, sts: Sts, tmp_path: Path
) -> None:
    """Region, service and authorities that are given come before those of the surroundings."""
    _role_of_a_profile(tmp_path / "config")
    sts.body = (
        "<AssumeRoleResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><AssumeRoleResult>"
        "<Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        "<SessionToken>t</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>"
        "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
    url = sts.endpoint.url
    endpoint = StsEndpoint(url, "eu-south-2", 5.0, verify=str(tmp_path / "not-read-without-tls"))
    source = choose_source(CredentialOptions(profile="work", sts_endpoint=url), endpoint)
    assert source.load().access_key == "ASIA"
    headers, body = sts.requests[0]
    assert "/eu-south-2/sts/aws4_request" in headers["authorization"]
    assert "role%2Fwork" in body
    assert url in source.identity


@pytest.mark.allow_log("Traceback")  # botocore's own log has one
def test_the_role_of_a_profile_is_assumed_through_the_proxy(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _role_of_a_profile(tmp_path / "config")
    environment.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked: list[bytes] = []

        def refuse() -> None:
            client, _ = listener.accept()
            with client:
                head = b""
                while b"\r\n\r\n" not in head and (more := client.recv(1 << 16)):
                    head += more
                asked.append(head)
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        proxy = parse_proxy(f"http://me:p%40%3A%2F@127.0.0.1:{listener.getsockname()[1]}", OPTION)
        endpoint = StsEndpoint("https://sts.invalid", "us-east-1", 5.0, proxy=proxy)
        options = CredentialOptions(profile="work", sts_endpoint="https://sts.invalid")
        with pytest.raises(Transient, match="no credentials") as caught:
            choose_source(options, endpoint).load()
        thread.join()
    assert "p%40" not in str(caught.value)
    assert asked[0].startswith(b"CONNECT sts.invalid:443 ")
    assert proxy.authorization is not None
    assert f"Proxy-Authorization: {proxy.authorization}\r\n".encode() in asked[0]


@pytest.mark.allow_log("Traceback")  # botocore's own log has one
def test_the_role_of_a_profile_that_is_refused(
    environment: pytest.MonkeyPatch, sts: Sts, tmp_path: Path
) -> None:
    _role_of_a_profile(tmp_path / "config")
    sts.body = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    sts.status = 403
    options = CredentialOptions(profile="work", sts_endpoint=sts.endpoint.url)
    with pytest.raises(AccessDenied, match=r"no credentials: .*\(AccessDenied\)"):
        choose_source(options, sts.endpoint).load()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, "<ErrorResponse><Error><Code>Unavailable</Code></Error></ErrorResponse>", Transient),
        (400, "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>", Transient),
        (502, "<html><br></html>", Transient),
        (200, "", Transient),
        (200, "<html>log in first</html>", AccessDenied),
        (200, "<AssumeRoleResponse/>", AccessDenied),
    ],
)
@pytest.mark.allow_log("Traceback")  # botocore's own log has one
def test_the_role_of_a_profile_while_its_service_is_not_well(
    environment: pytest.MonkeyPatch, sts: Sts, tmp_path: Path,
    status: int, body: str, error: type[Exception],
) -> None:  # fmt: skip
    """As of a role that is given: an outage may pass, and reads wait for its end."""
    _role_of_a_profile(tmp_path / "config")
    environment.setenv("AWS_MAX_ATTEMPTS", "1")
    sts.status, sts.body = status, body
    options = CredentialOptions(profile="work", sts_endpoint=sts.endpoint.url)
    with pytest.raises(error, match="no credentials: "):
        choose_source(options, sts.endpoint).load()


@pytest.mark.allow_log("Traceback")  # botocore's own log has one
def test_the_role_of_a_profile_while_its_service_is_away(
    environment: pytest.MonkeyPatch, sts: Sts, tmp_path: Path
) -> None:
    _role_of_a_profile(tmp_path / "config")
    environment.setenv("AWS_MAX_ATTEMPTS", "1")
    options = CredentialOptions(profile="work", sts_endpoint=NOWHERE.url)
    with pytest.raises(Transient, match="no credentials: Could not connect"):
        choose_source(options, NOWHERE).load()
    sts.silent, url = 3.0, sts.endpoint.url  # less than botocore's own patience
    options = CredentialOptions(profile="work", sts_endpoint=url)
    with pytest.raises(Transient, match=r"no credentials: .* timeout on"):
        choose_source(options, StsEndpoint(url, "us-east-1", 0.2)).load()


@pytest.mark.allow_log("Traceback")  # botocore's own log has one
@pytest.mark.parametrize("body", ["{}", '{"AccessKeyId": "a", "SecretAccessKey": "b"}'])
def test_a_container_service_that_answers_something_else(
    environment: pytest.MonkeyPatch, sts: Sts, body: str
) -> None:
    sts.body = body
    environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{sts.endpoint.url}/c")
    with pytest.raises(AccessDenied, match=r"no credentials: .* is missing"):
        choose_source(CredentialOptions(), NOWHERE).load()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("credential_process = /nowhere/program", "/nowhere/program"),
        ("credential_process = echo please log in", "credential_process"),
        ("credential_process = echo [1]", "credential_process"),
        (
            'credential_process = echo \'{"Version": 1, "AccessKeyId": 7, "SecretAccessKey": 8}\'',
            "credential_process",
        ),
        ("role_arn = arn:r\nweb_identity_token_file = /nowhere/token", "/nowhere/token"),
    ],
)
@pytest.mark.allow_log("Traceback")  # botocore's own log has one
def test_a_profile_whose_source_is_broken_gives_no_credentials(
    environment: pytest.MonkeyPatch, tmp_path: Path, line: str, why: str
) -> None:
    (tmp_path / "config").write_text(f"[profile work]\n{line}\n")
    with pytest.raises(AccessDenied, match=f"no credentials: .*{why}"):
        choose_source(CredentialOptions(profile="work"), NOWHERE).load()


def test_what_sts_may_answer_instead(sts: Sts, tmp_path: Path) -> None:
    options = CredentialOptions("AKID", "secret", role_arn="arn:role")
    source = choose_source(options, sts.endpoint)
    sts.body = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    sts.status = 403
    with pytest.raises(AccessDenied, match=r"\(AccessDenied\): check role_arn"):
        source.load()
    sts.status = 503
    with pytest.raises(Transient):
        source.load()
    sts.status, sts.body = 200, "<nothing/>"
    with pytest.raises(AccessDenied, match="without credentials"):
        source.load()
    with pytest.raises(Transient, match="no credentials from"):
        choose_source(options, NOWHERE).load()
    absent = CredentialOptions(role_arn="arn:role", token_file=str(tmp_path / "absent"))
    with pytest.raises(AccessDenied, match="token file"):
        choose_source(absent, sts.endpoint).load()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://[fd00::1]", ("fd00::1", 80)),
        ("https://[fd00::1]", ("fd00::1", 443)),
        ("https://sts.example:8443", ("sts.example", 8443)),
    ],
)
def test_where_sts_is(monkeypatch: pytest.MonkeyPatch, url: str, expected: tuple[str, int]) -> None:
    asked = []

    def connect(address: tuple[str, int], *_more: object) -> None:
        asked.append(address)
        raise OSError("away")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Transient, match="away"):
        StsEndpoint(url, "us-east-1", 1.0).call([], None, "")
    assert asked == [expected]


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        CredentialOptions(access_key="AKID")
    with pytest.raises(ConfigError, match="role_arn"):
        CredentialOptions(token_file="/token")
    with pytest.raises(ConfigError, match="role_arn"):
        CredentialOptions(token="token")
    with pytest.raises(ConfigError, match="excludes"):
        CredentialOptions(token="token", token_file="/token", role_arn="r")


def test_reprs_show_nothing() -> None:
    options = StoreOptions(credentials=CredentialOptions("AKID", "the-secret", "the-token"))
    for hidden in ("AKID", "the-secret", "the-token"):
        assert hidden not in repr(options)
        assert hidden not in str(options.credentials)


@pytest.mark.parametrize(
    "options",
    [
        "CredentialOptions('AKID', 'secret')",
        "CredentialOptions(role_arn='r', token='t')",
        "CredentialOptions(token_file='/t', sts_endpoint='http://sts')",
    ],
)
def test_the_sdk_is_not_loaded_for_what_is_given(options: str) -> None:
    """It would cost each worker megabytes."""
    program = (
        "import asyncio, sys\n"
        "from csi_slayer.store.open import open_store\n"
        "from csi_slayer.store.options import CredentialOptions, StoreOptions\n"
        "async def body():\n"
        f"    options = StoreOptions(credentials={options}, lazy=True)\n"
        "    await (await open_store('s3://bucket', options)).close()\n"
        "asyncio.run(body())\n"
        "assert 'botocore' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
