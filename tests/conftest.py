"""Fixtures shared by all tests: real S3 servers, started when the first test wants one."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests.support.servers import S3Server, ServerName, start_server

pytest_plugins = ["tests.support.leaks"]

# How long an example takes says nothing on a busy machine. The rest is as Hypothesis has it, also
# where it finds itself in continuous integration.
hypothesis.settings.register_profile(
    "any load",
    hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]),
)
hypothesis.settings.load_profile("any load")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has its background jobs ignore it, and programs would inherit that from us.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _running(name: ServerName, factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    # Below pytest's base directory: kept for the last runs, so that its log can be read later.
    server = start_server(name, factory.mktemp("servers"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """versitygw on a directory of this machine."""
    yield from _running("versitygw", tmp_path_factory)


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """MinIO with one drive."""
    yield from _running("minio", tmp_path_factory)


@pytest.fixture(params=["versitygw", "minio"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the servers in turn."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """A fresh bucket on ``s3_server``, removed afterwards if the server still runs."""
    name = s3_server.create_bucket()
    yield name
    if s3_server.process is not None:
        s3_server.admin.delete_bucket(name)
