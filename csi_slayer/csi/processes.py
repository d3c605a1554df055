"""The driver's two processes that speak gRPC: what they consist of, how they start and end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from csi_slayer.config.driver import DriverConfig
from csi_slayer.csi.controller import Controller
from csi_slayer.csi.emptying import Emptying
from csi_slayer.csi.identity import Identity, Probe
from csi_slayer.csi.metrics import CallMetrics
from csi_slayer.csi.node import Node
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.registration import Registration
from csi_slayer.csi.rpc import Calls
from csi_slayer.csi.server import Server
from csi_slayer.node.service import NodeVolumes
from csi_slayer.node.sole import sole
from csi_slayer.observability import get_logger
from csi_slayer.observability.serve import Readiness, serve_metrics
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.stores import StorePool

log = get_logger(__name__)

END_TIMEOUT: Final = 5.0
"""Seconds for each of what remains after the last call has ended; with GRACE within the
30 that Kubernetes gives a pod."""

_SERVICES = csi_pb2.DESCRIPTOR.services_by_name


async def _in_time(close: Callable[[], Awaitable[None]]) -> None:
    """Close, but not for ever: what is left over is found by the next process."""
    try:
        async with asyncio.timeout(END_TIMEOUT):
            await close()
    except TimeoutError:
        log.warning("ended before everything was closed", what=close.__qualname__)


@asynccontextmanager
async def _http(
    config: DriverConfig, metrics: CallMetrics, ready: Readiness
) -> AsyncIterator[None]:
    if config.metrics.listen is None:
        yield
        return
    server = await serve_metrics(metrics.registry, config.metrics.listen, ready)
    try:
        yield
    finally:
        await server.close()


@asynccontextmanager
async def controller(config: DriverConfig) -> AsyncIterator[None]:
    """The controller, serving inside the block. Raises ConfigError where it cannot listen."""
    metrics = CallMetrics()
    calls = Calls(metrics)
    async with AsyncExitStack() as stack:
        provisioner = Provisioner(config)
        stack.push_async_callback(_in_time, provisioner.close)
        probe = Probe(provisioner.probe)
        await stack.enter_async_context(_http(config, metrics, probe.problem))
        services = {"Identity": Identity(config, probe), "Controller": Controller(provisioner)}
        handlers = [calls.handler(it, _SERVICES[name]) for name, it in services.items()]
        server = Server(config.controller.socket, handlers)
        await server.start()
        stack.push_async_callback(server.close)
        log.info("serving", socket=str(server.path))
        yield


@asynccontextmanager
async def node(config: DriverConfig) -> AsyncIterator[None]:
    """The node service, serving inside the block. Raises ConfigError where it cannot listen or
    another one works in the run directory, and what NodeVolumes.start raises."""
    metrics = CallMetrics()
    calls = Calls(metrics)
    registration = Registration(config.node, calls)
    async with AsyncExitStack() as stack:
        # First of all, and until everything else has ended: what a predecessor that still lives
        # has mounted looks dead to its successor.
        await stack.enter_async_context(sole(config.node.run_directory))
        provisioner = Provisioner(config)
        stack.push_async_callback(_in_time, provisioner.close)
        stores = StorePool()
        stack.push_async_callback(_in_time, stores.close)
        volumes = NodeVolumes(config)
        probe = Probe(volumes.probe)
        started = False

        async def ready() -> str | None:
            if not started:
                return "the mounts of an earlier process are being taken over"
            if config.node.register_with_kubelet and registration.problem is not None:
                return registration.problem
            return await probe.problem()

        await stack.enter_async_context(_http(config, metrics, ready))
        stack.push_async_callback(_in_time, volumes.close)
        await volumes.start()
        emptying = Emptying(
            config.node.run_directory / "emptying", provisioner.delete_ephemeral, volumes.has
        )
        stack.push_async_callback(emptying.close)
        await emptying.start()
        metrics.watch_emptying(emptying.__len__)
        metrics.registry.register(volumes)
        services = {
            "Identity": Identity(config, probe),
            "Node": Node(config, volumes, emptying, stores),
        }
        handlers = [calls.handler(it, _SERVICES[name]) for name, it in services.items()]
        server = Server(config.node.socket, handlers)
        await server.start()
        stack.push_async_callback(server.close)
        if config.node.register_with_kubelet:
            await registration.start()
            stack.push_async_callback(registration.close)
        started = True
        log.info("serving", socket=str(server.path))
        yield


async def until_told(process: AbstractAsyncContextManager[None]) -> None:
    """Run it until SIGTERM or SIGINT."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with process:
        await told.wait()
        log.info("ending")
