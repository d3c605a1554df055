"""The Identity service, the same of controller and node but for what Probe checks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from csi_slayer import __version__
from csi_slayer.config.driver import DRIVER_NAME, DriverConfig
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import rpc
from csi_slayer.errors import SlayerError
from csi_slayer.observability import get_logger

log = get_logger(__name__)

REMEMBERED: Final = 1.0
"""Seconds for which the result of a check is good: many may ask, S3 and kernel are asked once."""


class Unhealthy(SlayerError):
    """A check of Probe failed; the message says which (CSI spec v1.12, "Probe Errors")."""

    grpc_code = "FAILED_PRECONDITION"


class Probe:
    """A check whose result is remembered for a moment."""

    def __init__(self, check: Callable[[], Awaitable[None]]) -> None:
        self._check = check
        self._lock = asyncio.Lock()
        self._until = 0.0
        self._problem: str | None = None

    async def problem(self) -> str | None:
        """What is wrong, or None."""
        async with self._lock:
            if time.monotonic() >= self._until:
                before, self._problem = self._problem, None
                try:
                    await self._check()
                except SlayerError as error:
                    self._problem = str(error)
                if self._problem != before:
                    # Kubernetes' events of probes do not show what the answer says.
                    if self._problem is None:
                        log.info("ready_again")
                    else:
                        log.warning("not_ready", problem=self._problem)
                self._until = time.monotonic() + REMEMBERED
            return self._problem


class Identity:
    """Implements ``csi.v1.Identity``."""

    def __init__(self, config: DriverConfig, probe: Probe) -> None:
        self._topology = bool(config.node.topology)
        self._probe = probe

    @rpc(quiet=True)
    async def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest
    ) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=__version__)

    @rpc(quiet=True)
    async def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        Service = csi_pb2.PluginCapability.Service
        Expansion = csi_pb2.PluginCapability.VolumeExpansion
        services = [Service.CONTROLLER_SERVICE]
        if self._topology:
            services.append(Service.VOLUME_ACCESSIBILITY_CONSTRAINTS)
        answer = csi_pb2.GetPluginCapabilitiesResponse()
        for service in services:
            answer.capabilities.add(service=Service(type=service))
        answer.capabilities.add(volume_expansion=Expansion(type=Expansion.ONLINE))
        return answer

    @rpc(quiet=True)
    async def Probe(self, request: csi_pb2.ProbeRequest) -> csi_pb2.ProbeResponse:
        problem = await self._probe.problem()
        if problem is not None:
            raise Unhealthy(problem)
        answer = csi_pb2.ProbeResponse()
        answer.ready.value = True
        return answer
