"""A process that serves a :class:`tests.support.memfs.MemFs`, and the test's hold on it.

It takes its orders from a socket. The test keeps a duplicate of the connection's descriptor, as a
supervisor would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse import pyfuse3_engine
from csi_slayer.fuse.init import Capabilities, SessionState
from csi_slayer.fuse.session import Session, SessionOptions
from tests.support.memfs import Behaviour, MemFs
from tests.support.preloaded import Forked, preloaded

if TYPE_CHECKING:
    from csi_slayer.fuse.pyfuse3_engine.session import Pyfuse3Session

_SIZE = 1 << 16
WATCHDOG_SECONDS = 90.0
"""Less than a test has: one that waits for a file system in vain is to say where."""


class Server:
    """The test's side."""

    def __init__(self, mountpoint: Path, store: Path, engine: str = "native") -> None:
        self.mountpoint = mountpoint
        self.store = store
        self.engine = engine
        self.process: Forked | None = None
        self.fd: int | None = None
        self.state: dict[str, Any] | None = None
        self.leftover: dict[str, Any] = {}
        self._end: socket.socket | None = None
        self._watchdog: threading.Timer | None = None

    def start(self, behaviour: Behaviour, off: tuple[str, ...] = (), loop: str = "uvloop") -> None:
        """Mount, or take over if this server was mounted before."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(30)
        with theirs:
            self.process = preloaded("tests.integration.fuse.serve:main").start(
                ["serve"], os.environ, fds=[theirs.fileno()]
            )
        order = {
            "mountpoint": str(self.mountpoint),
            "store": str(self.store),
            "behaviour": asdict(behaviour),
            "off": off,
            "loop": loop,
            "engine": self.engine,
            "state": self.state,
        }
        socket.send_fds(ours, [json.dumps(order).encode()], [] if self.fd is None else [self.fd])
        data, fds, _, _ = socket.recv_fds(ours, _SIZE, 1)
        if not data:
            raise RuntimeError(f"the server ended with {self.process.wait(10)}")
        self._end = ours
        if self.state is None:
            self.fd = fds[0] if fds else None
            self.state = json.loads(data)
        self.watch()

    def watch(self) -> None:
        """Abort the file system some time from now, unless this is called again: by each test that
        uses it."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = threading.Timer(WATCHDOG_SECONDS, self.abort)
        self._watchdog.daemon = True
        self._watchdog.start()

    @property
    def connection(self) -> int:
        assert self.state is not None
        return int(self.state["connection"])

    def ask(self, command: str, **arguments: Any) -> Any:
        self.tell(command, **arguments)
        return self.heard()

    def tell(self, command: str, **arguments: Any) -> None:
        """:meth:`ask`, whose answer is to be :meth:`heard` later."""
        assert self._end is not None
        self._end.send(json.dumps({"command": command, **arguments}).encode())

    def heard(self) -> Any:
        assert self._end is not None
        return json.loads(self._end.recv(_SIZE))

    def put(self, name: str, data: bytes) -> int:
        """A file that appears in the root directory without the kernel's knowledge."""
        source = self.store.with_name("put")
        source.write_bytes(data)
        return int(self.ask("put", name=name, source=str(source)))

    def calls(self) -> dict[str, int]:
        calls: dict[str, int] = self.ask("report")["calls"]
        return calls

    def wait_for(self, **wanted: int) -> None:
        """Until the report's figures are at least those."""
        self.ask("wait", wanted=wanted)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self._close_socket()

    def wait_until_gone(self) -> None:
        """After a ``stop``: the process ends by itself."""
        assert self.process is not None
        self.process.wait(20)
        self._close_socket()

    def abort(self) -> None:
        """Whoever waits for this file system waits no longer."""
        if self.state is not None and self._is_there():
            mounts.abort(self.connection)

    def _is_there(self) -> bool:
        """Whether the connection has not ended. Its number is another's by then, perhaps: of
        whoever mounts something else on this machine."""
        if self.fd is not None:
            return mounts.is_connected(self.fd)
        found = mounts.find(mounts.resolve(str(self.mountpoint)))
        return found is not None and found.connection == self.connection

    def unmount(self) -> int:
        """Unmount, which ends the server; returns its exit status."""
        assert self.process is not None
        mounts.unmount(str(self.mountpoint))
        status = self.process.wait(20)
        self._forget()
        return status

    def clean_up(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.abort()
        with contextlib.suppress(OSError):
            mounts.unmount(str(self.mountpoint), lazy=True)
        self._close_socket()
        if self.process is not None:
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self._forget()

    def _forget(self) -> None:
        self._close_socket()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self.fd is not None:
            os.close(self.fd)
        self.fd = self.state = self.process = None

    def _close_socket(self) -> None:
        if self._end is not None:
            self._end.close()
            self._end = None


@contextlib.contextmanager
def serving(
    directory: Path,
    behaviour: Behaviour,
    off: tuple[str, ...] = (),
    *,
    files: dict[str, bytes] | None = None,
    loop: str = "uvloop",
    engine: str = "native",
) -> Iterator[Server]:
    """A mounted file system with some files in its root directory."""
    mountpoint, store = directory / "mnt", directory / "store"
    mountpoint.mkdir(parents=True)
    store.mkdir()
    server = Server(mountpoint, store, engine)
    try:
        server.start(behaviour, off, loop)
        for name, data in (files or {}).items():
            server.put(name, data)
        yield server
    finally:
        server.clean_up()


async def _commands(end: socket.socket, fs: MemFs, session: Session | Pyfuse3Session) -> None:
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.sock_recv(end, _SIZE)
        if not data:
            await session.stop(grace=0, hand_over=True)
            return
        order = json.loads(data)
        answer: Any = None
        match order.pop("command"):
            case "put":
                answer = fs.put(order["name"], Path(order["source"]).read_bytes())
            case "stand_still":
                Path(order["until"]).read_bytes()  # a fifo: until the test has opened it, too
            case "let_go":
                fs.let_go()
            case "report":
                answer = fs.report() | {
                    "in_flight": session.in_flight,
                    "stats": {name: asdict(s) for name, s in session.stats.snapshot().items()},
                }
            case "wait":
                while any(fs.report()[k] < v for k, v in order["wanted"].items()):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)  # counters tell nobody that they changed
            case "invalidate_inode":
                session.invalidate_inode(order["ino"])
            case "invalidate_entry":
                session.invalidate_entry(order["parent"], order["name"].encode())
            case "stop":
                answer = await session.stop(order["grace"], hand_over=order["hand_over"])
                await loop.sock_sendall(end, json.dumps(answer).encode())
                return
        await loop.sock_sendall(end, json.dumps(answer).encode())


async def _serve(order: dict[str, Any], fds: list[int], end: socket.socket) -> None:
    session: Session | Pyfuse3Session
    fs = MemFs(Path(order["store"]), Behaviour(**order["behaviour"]))
    options = SessionOptions(Capabilities.without(order["off"]))
    if fds:
        session = Session.resume(fds[0], SessionState.from_json(order["state"]), fs, options)
    else:
        mount = Session.mount if order["engine"] == "native" else pyfuse3_engine.mount
        session = await mount(order["mountpoint"], "memfs#test", fs, options)
    descriptors = [] if session.fd is None else [session.fd]
    socket.send_fds(end, [json.dumps(session.state.to_json()).encode()], descriptors)
    end.setblocking(False)
    commands = asyncio.create_task(_commands(end, fs, session))
    ended = await session.run()
    if ended:
        await session.stop(grace=1)
    session.close()
    if ended:
        commands.cancel()
    await asyncio.wait((commands,), timeout=5)
    fs.close()


def main() -> None:
    end = socket.socket(fileno=int(sys.argv[1]))
    data, fds, _, _ = socket.recv_fds(end, _SIZE, 1)
    order = json.loads(data)
    factory = uvloop.new_event_loop if order["loop"] == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(order, fds, end))
