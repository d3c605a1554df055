"""Fixtures of the end-to-end tests: the cluster that ``python -m e2e.cluster up`` left running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.settings import DEFAULT_STATE
from e2e.environment import Environment
from e2e.tests.kubernetes import Kubectl


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
    yield name
    kubectl("delete", "namespace", name, "--timeout=90s", timeout=100)


def pytest_report_header() -> str:
    return f"cluster: {_state()}, kernel {os.uname().release}"


def _state() -> Path:
    return Path(os.environ.get("SLAYERFS_E2E", DEFAULT_STATE))
