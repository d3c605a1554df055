"""Real S3 servers on loopback, for tests.

Each runs in a directory of its own on a free port, in its own process group, and is ended by pid.
``live_pids`` tells the leak check which children belong to the session.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.binaries import MINIO, VERSITYGW, GoProgram
from tests.support.s3admin import S3Admin

ServerName = Literal["versitygw", "minio"]

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
_START_TRIES = 3

live_pids: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class S3Server:
    """A running server. The endpoint stays the same over ``stop``, ``kill`` and ``start``."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    region: str
    directory: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    ready_path: str
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        """Everything the server printed, over all its starts."""
        return self.directory / "server.log"

    @functools.cached_property
    def admin(self) -> S3Admin:
        """boto3 on this server: what a test compares with. One for all tests: a client costs as
        much as a hundred requests."""
        return self.through(self.endpoint)

    def through(self, endpoint: str) -> S3Admin:
        """The same by another address: that of a proxy in front of it."""
        return S3Admin(endpoint, self.access_key, self.secret_key, self.region)

    def create_bucket(self, name: str | None = None) -> str:
        """A new bucket; without a name a unique one. Returns the name (3 characters or more)."""
        bucket = name or f"test-{uuid.uuid4().hex[:12]}"
        self.admin.create_bucket(bucket)
        return bucket

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError with the end of its log."""
        if self.process is not None:
            raise RuntimeError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                cwd=self.directory,
                start_new_session=True,
            )
        live_pids.add(self.process.pid)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                self.kill()
                raise RuntimeError(f"{self.name} did not start:\n{tail}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint + self.ready_path, timeout=2):
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500  # it wants a signature: it is there
        except OSError:
            return False

    def stop(self) -> None:
        """End it in good order; no error if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does; no error if it does not run."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered, until :meth:`resume`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if "admin" in self.__dict__:
            self.admin.client.close()  # or the server might wait for its idle connections
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused one would not notice
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        live_pids.discard(process.pid)


def _binary(binary: GoProgram) -> str:
    if not binary.path.exists():
        raise RuntimeError(f"{binary.path} is missing: run `make setup`")
    return str(binary.path)


def supports_xattrs(directory: Path) -> bool:
    """Whether files there can have the attributes that versitygw keeps its metadata in."""
    try:
        os.setxattr(directory, "user.slayerfs-test", b"1")
        os.removexattr(directory, "user.slayerfs-test")
    except OSError:
        return False
    return True


def _versitygw(directory: Path, port: int) -> S3Server:
    data = directory / "data"
    data.mkdir()
    command = [_binary(VERSITYGW), "--port", f"127.0.0.1:{port}", "--keep-alive", "posix"]
    if not supports_xattrs(data):
        (directory / "metadata").mkdir()
        command += ["--sidecar", str(directory / "metadata")]
    access, secret = "versityaccess", uuid.uuid4().hex
    return S3Server(
        name="versitygw",
        endpoint=f"http://127.0.0.1:{port}",
        access_key=access,
        secret_key=secret,
        region="us-east-1",
        directory=directory,
        command=[*command, str(data)],
        environment={
            "PATH": os.environ["PATH"],
            "ROOT_ACCESS_KEY": access,
            "ROOT_SECRET_KEY": secret,
        },
        ready_path="/",
    )


def _minio(directory: Path, port: int) -> S3Server:
    data = directory / "data"
    data.mkdir()
    access, secret = "minioaccess", uuid.uuid4().hex
    return S3Server(
        name="minio",
        endpoint=f"http://127.0.0.1:{port}",
        access_key=access,
        secret_key=secret,
        region="us-east-1",
        directory=directory,
        command=[
            _binary(MINIO),
            "server",
            "--quiet",
            "--address",
            f"127.0.0.1:{port}",
            "--console-address",
            f"127.0.0.1:{free_port()}",
            str(data),
        ],
        environment={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "MINIO_ROOT_USER": access,
            "MINIO_ROOT_PASSWORD": secret,
            "MINIO_BROWSER": "off",
        },
        ready_path="/minio/health/ready",
    )


def start_server(
    name: ServerName, directory: Path, environment: Mapping[str, str] | None = None
) -> S3Server:
    """Start a server with its data and log in ``directory`` (made if needed); stop it yourself.

    ``environment``: variables that configure it, besides those it needs.
    """
    make = {"versitygw": _versitygw, "minio": _minio}[name]
    for attempt in range(_START_TRIES):
        place = directory / f"{name}-{attempt}"
        place.mkdir(parents=True)
        server = make(place, free_port())
        server.environment = {**server.environment, **(environment or {})}
        try:
            server.start()
        except RuntimeError:
            # Somebody else may have taken the port between the probe and the start.
            if attempt == _START_TRIES - 1:
                raise
        else:
            return server
    raise AssertionError("unreachable")
