"""Random calls, repeated and at once, to the running driver: real mounts, a real S3 server, and
what is written in a volume is in its snapshots and clones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.csi import CsiClient
from tests.support.csi_machine import Clients, CsiMachine
from tests.support.driver import Driver, driver, s3_section
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def running(versitygw: S3Server, short_directory: Path, tmp_path: Path) -> Iterator[Driver]:
    store = s3_section(versitygw, versitygw.create_bucket(), tmp_path / "secret")
    with driver(short_directory, store=store) as made:
        yield made


def test_against_the_model(running: Driver) -> None:
    class RealMachine(CsiMachine):
        mounted = True

        async def connect(self) -> Clients:
            controller = grpc.aio.insecure_channel(f"unix:{running.controller_socket}")
            node = grpc.aio.insecure_channel(f"unix:{running.socket}")

            async def close() -> None:
                await controller.close()
                await node.close()

            targets = running.kubelet / "pods"
            return Clients(CsiClient(controller), CsiClient(node), targets, close)

    run_state_machine_as_test(
        RealMachine,
        settings=settings(
            max_examples=8,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
