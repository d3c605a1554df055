"""Random calls, repeated and at once: over a local store, with mounts only pretended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from hypothesis import settings
from structlog.testing import capture_logs

from csi_slayer.csi.controller import Controller
from csi_slayer.csi.emptying import Emptying
from csi_slayer.csi.node import Node
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import Calls
from csi_slayer.csi.server import Server
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.stores import StorePool
from tests.support.csi import CsiClient
from tests.support.csi_machine import Clients, CsiMachine
from tests.unit.csi.services import PretendedVolumes, configuration
from tests.unit.csi.serving import Counted


class PretendedMachine(CsiMachine):
    async def connect(self) -> Clients:
        directory = Path(tempfile.mkdtemp(prefix="sfs-"))
        config = configuration(directory)
        provisioner, stores = Provisioner(config), StorePool()
        volumes = PretendedVolumes(directory / "kubelet")
        calls = Calls(Counted())
        services = csi_pb2.DESCRIPTOR.services_by_name
        emptying = Emptying(directory / "emptying", provisioner.delete_ephemeral, volumes.has)
        node = Node(config, volumes, emptying, stores)  # type: ignore[arg-type]
        server = Server(
            directory / "csi.sock",
            [
                calls.handler(Controller(provisioner), services["Controller"]),
                calls.handler(node, services["Node"]),
            ],
        )
        await server.start()
        channel = grpc.aio.insecure_channel(f"unix:{server.path}")
        client = CsiClient(channel)

        async def close() -> None:
            await channel.close()
            await server.close(1)
            await provisioner.close()
            await stores.close()
            shutil.rmtree(directory)

        return Clients(client, client, directory / "kubelet", close)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of calls: nobody reads their lines."""
    with capture_logs():
        yield


TestPretended = PretendedMachine.TestCase
TestPretended.settings = settings(max_examples=20, stateful_step_count=20)
TestPretended.pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
