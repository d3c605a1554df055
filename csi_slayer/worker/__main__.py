"""``python -m csi_slayer.worker FD``: the worker process, started by a supervisor.

FD is a socket to it (see :mod:`csi_slayer.worker.channel`): the first message brings the spec, and
the kernel connection if an earlier worker had one. Nothing secret is in arguments or environment.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from typing import Any

import uvloop

from csi_slayer.config import MountConfig
from csi_slayer.errors import SlayerError
from csi_slayer.observability import configure_logging, get_logger, log_context, register_secrets
from csi_slayer.worker import channel
from csi_slayer.worker.channel import FAILED, UNMOUNTED
from csi_slayer.worker.mount import Mount
from csi_slayer.worker.spec import WorkerSpec

log = get_logger(__name__)


async def serve(
    supervisor: socket.socket, message: dict[str, Any], fds: list[int], config: MountConfig
) -> int:
    spec = WorkerSpec.from_message(message["spec"])
    session_state = message.get("session")
    mount = Mount(spec, config, int(message.get("restarts", 0)))
    with log_context(volume=spec.volume):
        try:
            try:
                await mount.open(check=session_state is None)
                if session_state is None:
                    await _mount(mount, supervisor)
                elif fds:
                    await mount.resume(fds[0], session_state)
                    log.info("worker took over", restarts=mount.restarts)
                elif mount.is_mounted():
                    await _mount(mount, supervisor)
                else:
                    await mount.finish()
                    log.info("unmounted while no worker served it")
            except SlayerError as error:
                log.error("cannot start", error=str(error))
                channel.send(supervisor, {"error": str(error)})
                return FAILED
            channel.send(supervisor, {"ready": 1})
            gc.collect()
            gc.freeze()
            await mount.serve()
        finally:
            await mount.close()
    return UNMOUNTED


async def _mount(mount: Mount, supervisor: socket.socket) -> None:
    if mount.restarts:
        # From here on that nothing is mounted does not mean that somebody unmounted it.
        channel.send(supervisor, {"session": None})
        await mount.clear_away()
    session = await mount.mount()
    fds = () if session.fd is None else (session.fd,)
    channel.send(supervisor, {"session": session.state.to_json()}, fds)
    log.info("mounted", mountpoint=mount.spec.mountpoint)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGHUP):
        # A terminal sends them to all of its processes; what they mean is the supervisor's to say.
        signal.signal(number, signal.SIG_IGN)
    supervisor = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(supervisor.fileno(), False)
    received = channel.receive(supervisor)
    if received is None:
        return FAILED
    message, fds = received
    config = MountConfig.from_spec(message["spec"]["config"].encode())
    register_secrets(config.secrets())
    configure_logging(config.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(supervisor, message, fds, config))


if __name__ == "__main__":
    sys.exit(main())
