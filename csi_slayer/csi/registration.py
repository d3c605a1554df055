"""Telling the kubelet that the driver is there.

The kubelet watches its plugins_registry for sockets, asks each who it is, and says what it made of
it. It does so again whenever it starts. Where a driver's socket disappears it forgets the driver.
"""

from __future__ import annotations

from typing import Final

from csi_slayer.config.driver import DRIVER_NAME, NodeConfig
from csi_slayer.csi.proto import pluginregistration_pb2 as registration_pb2
from csi_slayer.csi.rpc import Calls, rpc
from csi_slayer.csi.server import LOOK_AFTER, Server
from csi_slayer.observability import get_logger

log = get_logger(__name__)

CSI_VERSIONS: Final = ("1.0.0",)
"""Of the API between kubelet and driver: the major version is what the kubelet compares."""

_GRACE: Final = 1.0


class Registration:
    """Implements ``pluginregistration.Registration`` on a socket of its own."""

    def __init__(self, config: NodeConfig, calls: Calls) -> None:
        self.path = config.registration_directory / f"{DRIVER_NAME}-reg.sock"
        self._endpoint = config.socket
        services = registration_pb2.DESCRIPTOR.services_by_name
        handlers = [calls.handler(self, services["Registration"])]
        self._server = Server(self.path, handlers, self._lost)
        self._problem: str | None = "the kubelet has not asked for the driver yet"

    @property
    def problem(self) -> str | None:
        """Why the kubelet does not know the driver, or None."""
        return self._problem

    async def start(self, look_after: float = LOOK_AFTER) -> None:
        """Raises ConfigError where nothing can listen in plugins_registry."""
        await self._server.start(look_after)

    async def close(self) -> None:
        await self._server.close(_GRACE)

    def _lost(self) -> None:
        self._problem = "the kubelet has not asked for the driver since its socket was lost"

    @rpc(quiet=True)
    async def GetInfo(self, request: registration_pb2.InfoRequest) -> registration_pb2.PluginInfo:
        return registration_pb2.PluginInfo(
            type="CSIPlugin",
            name=DRIVER_NAME,
            endpoint=str(self._endpoint),
            supported_versions=CSI_VERSIONS,
        )

    @rpc()
    async def NotifyRegistrationStatus(
        self, request: registration_pb2.RegistrationStatus
    ) -> registration_pb2.RegistrationStatusResponse:
        if request.plugin_registered:
            self._problem = None
            log.info("the kubelet has registered the driver")
        else:
            self._problem = f"the kubelet refused the driver: {request.error}"
            log.error("the kubelet refused the driver", error=request.error)
        return registration_pb2.RegistrationStatusResponse()
