"""Random calls, repeated and at once, to the running driver: real mounts, a real S3 server, and
what is written in a volume is in its snapshots and clones."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.support.csi import CsiClient, channel_to
from tests.support.csi_machine import Clients, CsiMachine
from tests.support.driver import Driver, Role, driver, s3_section
from tests.support.mounts import wait_for
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def running(s3_server: S3Server, short_directory: Path, tmp_path: Path) -> Iterator[Driver]:
    store = s3_section(s3_server, s3_server.create_bucket(), tmp_path / "secret")
    with driver(short_directory, store=store) as made:
        yield made


class RealMachine(CsiMachine):
    """``running`` is set by whoever runs it."""

    mounted = True
    running: Driver

    async def connect(self) -> Clients:
        controller = channel_to(self.running.controller_socket)
        node = channel_to(self.running.socket)

        async def close() -> None:
            await controller.close()
            await node.close()

        targets = self.running.kubelet / "pods"
        return Clients(CsiClient(controller), CsiClient(node), targets, close)


class KilledMachine(RealMachine):
    """The same, and now and then a process is killed during a call and started again."""

    @precondition(lambda self: self.disturbance is None and self.volumes)
    @rule(role=st.sampled_from(["node", "controller", "keeper"]))
    def kill(self, role: Role) -> None:
        def connections() -> int:
            return self.running.log.read_text(errors="replace").count("keeper_connected")

        def replace() -> None:
            before = connections()
            self.running.end(role, signal.SIGKILL)
            self.running.start(role)
            if role == "keeper":
                # Nobody but the node service has the mounts until the new one was given them: the
                # next to die may not come before that. (The metric may still tell of the old one.)
                wait_for(lambda: connections() > before, 60, "a keeper that has everything")

        self.disturbance = lambda: asyncio.to_thread(replace)


@pytest.mark.parametrize(
    ("machine", "examples"), [(RealMachine, 8), (KilledMachine, 4)], ids=["undisturbed", "killed"]
)
def test_against_the_model(
    machine: type[RealMachine], examples: int, running: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "running", running, raising=False)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            phases=[Phase.generate],  # to shrink a failure would take longer than to read it
            suppress_health_check=list(HealthCheck),
        ),
    )
