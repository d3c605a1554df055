"""``python -m csi_slayer.node.supervise FD``: the supervisor as a process of its own.

Reads ``{"spec": ..., "entry": ..., "log": path}`` from the socket FD, answers ``{"ready": pid}`` or
``{"error": text}`` once, and stays until the volume is unmounted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

from csi_slayer.errors import SlayerError
from csi_slayer.fuse.mount import is_mounted, unmount
from csi_slayer.node import registry
from csi_slayer.node.lock import Busy, lock_volume
from csi_slayer.node.supervisor import CannotStart, Supervisor, ignore_terminal_signals
from csi_slayer.worker import channel
from csi_slayer.worker.cores import forbid_core_dumps


def supervise(
    spec: dict[str, object], entry: dict[str, str], log_fd: int, client: socket.socket | None
) -> int:
    """Run a volume; tells ``client`` once how it began."""

    def answer(message: dict[str, object]) -> None:
        if client is not None:
            try:
                channel.send(client, message)
            except OSError:
                pass  # the command that started us is gone; the mount stays

    def ready(pid: int) -> None:
        place.close()
        try:
            registry.write(registry.Mounted(supervisor=os.getpid(), **entry))
        except (SlayerError, OSError) as error:  # no reason to have no mount: it is tried again
            sys.stderr.write(f"not registered: {error}\n")
        answer({"ready": pid})

    def look_after() -> None:
        """Without its entry nobody finds the mount: umount would not wait for its uploads. The
        directory goes with the last session of its user."""
        with contextlib.suppress(SlayerError, OSError):
            if not registry.has(entry["volume"]):
                registry.write(registry.Mounted(supervisor=os.getpid(), **entry))

    try:
        lock = lock_volume(entry["state"])
    except Busy:
        answer({"error": f"{entry['mountpoint']} is mounted already, or its last uploads are still "
                         "under way: see csi-slayer status"})  # fmt: skip
        return 1
    place = contextlib.ExitStack()
    try:
        place.enter_context(_alone_at(entry["mountpoint"]))
    except Busy:
        os.close(lock)
        answer({"error": f"another volume has been mounted at {entry['mountpoint']} meanwhile, or "
                         "is about to be: one of them has to go elsewhere"})  # fmt: skip
        return 1
    supervisor = Supervisor(spec, log_fd, ready, keep=(lock,), look_after=look_after)

    def is_there() -> bool:
        """Whether what is mounted there is this volume, and not one that came after it."""
        if supervisor.is_unmounted:
            return False
        return is_mounted(entry["mountpoint"], connection=supervisor.connection)

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        if supervisor.give_up():
            return
        if not is_there():
            supervisor.abandon()  # it was told to unmount before: now it is not to upload either
        else:
            with contextlib.suppress(OSError):
                unmount(entry["mountpoint"], lazy=True)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, terminate)
    try:
        return supervisor.run()
    except CannotStart as error:
        # A worker that was killed while it mounted leaves a mount that nobody serves.
        if is_mounted(entry["mountpoint"]):
            with contextlib.suppress(OSError):
                unmount(entry["mountpoint"], lazy=True)
        answer({"error": str(error)})
        return 1
    finally:
        place.close()
        with contextlib.suppress(SlayerError, OSError):  # the directory may be gone
            registry.remove(entry["volume"])
        os.close(lock)


@contextlib.contextmanager
def _alone_at(mountpoint: str) -> Iterator[None]:
    """Mount nothing on top of what another command has mounted there since somebody looked: in
    the block this process alone is about to. Raises Busy."""
    if is_mounted(mountpoint):
        raise Busy
    fd = -1
    try:
        with contextlib.suppress(OSError):  # nobody may read it, or its file system has no locks
            fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy from None
        if is_mounted(mountpoint):
            raise Busy
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def main() -> int:
    forbid_core_dumps()
    client = socket.socket(fileno=int(sys.argv[1]))
    received = channel.receive(client)
    if received is None:
        return 1
    message, _fds = received
    log_fd = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log_fd, sys.stderr.fileno())
    ignore_terminal_signals()
    return supervise(message["spec"], message["entry"], log_fd, client)


if __name__ == "__main__":
    sys.exit(main())
