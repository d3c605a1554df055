"""Fixtures of the end-to-end tests: the cluster that ``python -m e2e.cluster up`` left running."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.settings import DEFAULT_STATE
from e2e.environment import Environment
from e2e.install import BUCKET, admin, install
from e2e.tests.kubernetes import Kubectl
from e2e.tests.support.api import WAIT, Api
from e2e.tests.support.diagnosis import collect
from e2e.tests.support.driver import Driver, run_directory
from e2e.tests.support.polling import poll
from e2e.tests.support.space import Space

_TIMEOUT = 600
"""Seconds for a test that names none, with its set-up and its end: what it waits for inside has
limits of its own, and they tell what was missing."""


@pytest.fixture(scope="session")
def environment() -> Environment:
    """The cluster in the state directory that SLAYERFS_E2E names, or in the default one."""
    state = _state()
    try:
        return Environment.load(state)
    except FileNotFoundError:
        pytest.fail(f"no cluster in {state}: run `make e2e`, or python -m e2e.cluster up")


@pytest.fixture(scope="session")
def kubeconfig(environment: Environment) -> Path:
    """The administrator's."""
    return environment.kubeconfig


@pytest.fixture(scope="session")
def kubectl(environment: Environment) -> Kubectl:
    """kubectl, as administrator."""
    return Kubectl(environment)


@pytest.fixture
def namespace(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, deleted afterwards with all that is in it."""
    kubectl("create", "namespace", name := f"test-{os.urandom(4).hex()}")
    limit = f"--timeout={WAIT:.0f}s"
    # No pod is taken without its account, which is made a moment later.
    kubectl("wait", "--for=create", "-n", name, "serviceaccount/default", limit)
    yield name
    kubectl("delete", "namespace", name, limit)


@pytest.fixture(scope="session")
def api(environment: Environment) -> Iterator[Api]:
    """The API server, as administrator."""
    api = Api(environment.kubeconfig)
    yield api
    api.close()


@pytest.fixture(scope="session")
def driver(api: Api, environment: Environment) -> Iterator[Driver]:
    """The driver, installed as a user would. At the end nothing may be left of the tests' volumes:
    no worker and no object in S3."""
    install(environment)
    driver = Driver(api, run_directory(str(environment.kubelet_directory)))
    driver.wait_for_keeper()
    yield driver
    driver.wait_without_volumes()
    poll(
        lambda: admin(environment, "versitygw").keys(BUCKET)[:10],
        lambda left: not left,
        "left in S3 after the tests",
    )


@pytest.fixture
def restored(driver: Driver, environment: Environment) -> Iterator[None]:
    """The driver as it was installed, afterwards."""
    yield
    install(environment)
    driver.wait_ready("node")
    driver.wait_ready("controller")
    driver.wait_for_keeper()


@pytest.fixture
def space(
    api: Api, environment: Environment, driver: Driver, request: pytest.FixtureRequest
) -> Iterator[Space]:
    """A namespace of the test's own. What is in it goes away while the next tests run."""
    name = f"test-{os.urandom(4).hex()}"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    api.wait("ServiceAccount", "default", name, lambda seen: seen is not None, "made")
    space = Space(name, api, environment)
    request.node.stash[_SPACE] = space, time.monotonic()
    yield space
    api.delete("Namespace", name)
    for kind, object_name in space.cluster_wide:
        api.delete(kind, object_name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Of all tests that are run, also of those elsewhere, which have less time.
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT))


_SPACE = pytest.StashKey[tuple[Space, float]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Of a failed test, what the cluster knows, while its pods are still there."""
    report = yield
    if report.failed and call.when == "call" and _SPACE in item.stash:
        report.sections += collect(item.stash[_SPACE][0], item.name, item.stash[_SPACE][1])
    return report


def pytest_configure(config: pytest.Config) -> None:
    # The client's watches leave their connections to the garbage collector.
    ignored = "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
    config.addinivalue_line("filterwarnings", ignored)


def pytest_report_header() -> str:
    return f"cluster: {_state()}, kernel {os.uname().release}"


def _state() -> Path:
    return Path(os.environ.get("SLAYERFS_E2E", DEFAULT_STATE))
