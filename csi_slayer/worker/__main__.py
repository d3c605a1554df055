"""``python -m csi_slayer.worker FD``: the worker process, started by a supervisor.

FD is a socket to it (see :mod:`csi_slayer.worker.channel`): the first message brings the spec, and
the kernel connection if an earlier worker had one. Nothing secret is in arguments or environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from typing import Any

import uvloop

from csi_slayer.config import MountConfig
from csi_slayer.errors import ConfigError, SlayerError
from csi_slayer.observability import configure_logging, get_logger, log_context, register_secrets
from csi_slayer.store.threads import Threads
from csi_slayer.worker import channel
from csi_slayer.worker.channel import FAILED, UNMOUNTED
from csi_slayer.worker.cores import forbid_core_dumps
from csi_slayer.worker.link import Link
from csi_slayer.worker.mount import Mount
from csi_slayer.worker.spec import WorkerSpec
from csi_slayer.worker.updates import Updates

log = get_logger(__name__)

_M_ARENA_MAX = -8
ARENAS = 2
"""Heaps of malloc for all threads."""

TENANT = "tenant"
"""Key of the session's description: who shares the cache with this mount. It stays the same for as
long as the volume is mounted, whatever becomes of the credentials."""


async def serve(
    end: socket.socket, message: dict[str, Any], fds: list[int], config: MountConfig
) -> int:
    spec = WorkerSpec.from_message(message["spec"])
    mount = Mount(spec, config, int(message.get("restarts", 0)))
    link = Link(end, bound=bool(message.get("bound")))
    with log_context(**{"volume": spec.volume, **spec.labels}):
        try:
            try:
                await _start(mount, link, message.get("session"), fds)
            except SlayerError as error:
                log.error("cannot start", error=str(error))
                link.say({"error": str(error), "code": error.grpc_code})
                return FAILED
            link.send({"ready": 1})
            gc.collect()
            gc.freeze()
            updates = Updates(mount, link)
            try:
                left = await mount.serve()
            finally:
                await updates.close()
        finally:
            await mount.close()
            link.close()
    link.say({"ended": left})
    return UNMOUNTED


async def _start(mount: Mount, link: Link, session: dict[str, Any] | None, fds: list[int]) -> None:
    """``session`` and ``fds`` as in the first message."""
    await mount.open(new=session is None, tenant=(session or {}).get(TENANT))
    if session is None:
        await _mount(mount, link)
    elif session.get("unmounted"):
        await mount.finish()
        log.info("uploading what an unmounted volume left")
    elif fds:
        await mount.resume(fds[0], session)
        log.info("worker took over", restarts=mount.restarts)
    elif mount.is_mounted():
        await _mount(mount, link)
    else:
        await mount.finish()
        log.info("unmounted while no worker served it")


async def _mount(mount: Mount, link: Link) -> None:
    if mount.restarts:
        # From here on that nothing is mounted does not mean that somebody unmounted it.
        link.send({"session": None})
        await mount.clear_away()
    session = await mount.mount()
    fds = () if session.fd is None else (session.fd,)
    link.send({"session": {**session.state.to_json(), TENANT: mount.tenant}}, fds)
    log.info("mounted", mountpoint=mount.spec.mountpoint)


def run_worker(end: socket.socket) -> int:
    """Serve one volume until its end; returns the status to exit with.

    ``end`` is connected to the supervisor, and no other copy of it is open anywhere. The process
    is this worker's alone from here on: logging, signals and garbage collection are set up for it.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        # A terminal sends them to all of its processes; what they mean is the supervisor's to say.
        signal.signal(number, signal.SIG_IGN)
    forbid_core_dumps()
    _limit_arenas()
    _allow_open_files()
    received = channel.receive(end)
    if received is None:
        return FAILED
    message, fds = received
    spec = message["spec"]["config"].encode()
    # Of a mount that there is: its supervisor may be of another version, and programs wait.
    new = message.get("session") is None
    config = MountConfig.from_spec(spec) if new else MountConfig.understood(spec)
    register_secrets(config.secrets())
    try:
        writer = configure_logging(config.log)
    except ConfigError as error:
        if not message.get("restarts"):
            channel.send(end, {"error": str(error), "code": error.grpc_code})
            return FAILED
        # A directory that is gone is no reason to let programs wait for ever.
        writer = configure_logging(config.log.model_copy(update={"file": None}))
        log.error("logging to standard error", error=str(error))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_default_executor(Threads(thread_name_prefix="worker"))
            return runner.run(serve(end, message, fds, config))
    finally:
        writer.close()


def _allow_open_files() -> None:
    """Each open file of the volume is one of ours, and the usual limit is 1,024: take all that this
    process may have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _limit_arenas() -> None:
    """Threads would each have an arena of malloc's, and what one has freed the others could not
    use; they wait for the interpreter's lock more than they would for malloc's."""
    with contextlib.suppress(AttributeError):  # glibc's alone (malloc.h)
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def main() -> int:
    end = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(end.fileno(), False)
    return run_worker(end)


if __name__ == "__main__":
    sys.exit(main())
