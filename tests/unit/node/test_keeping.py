"""The node service's connection to the keeper: lost and found again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_slayer.node import keeping
from csi_slayer.node.keeper import LIMIT, Keeper
from csi_slayer.node.keeping import Held, Keeping, seal, unseal
from tests.unit.node.test_keeper import Running


class Volumes:
    """What the keeper is to hold."""

    def __init__(self) -> None:
        self.entries: dict[str, Held] = {}

    def keeping(self, path: Path) -> Keeping:
        return Keeping(path, lambda: self.entries, self.entries.get)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def volumes() -> Volumes:
    return Volumes()


def test_a_sealed_specification_cannot_be_changed() -> None:
    fd = seal(b"secret")
    try:
        assert unseal(fd) == b"secret"
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 100)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_a_successor_gets_what_was_put(tmp_path: Path, volumes: Volumes) -> None:
    path = tmp_path / "keeper.sock"
    keeper = Running(path)

    async def run() -> None:
        with (tmp_path / "device").open("w") as device:
            first = volumes.keeping(path)
            assert await first.start() == {}
            volumes.entries["a"] = Held({"n": 1}, b"spec a", device.fileno())
            volumes.entries["b"] = Held({"n": 2}, b"spec b")
            assert await first.put("a")
            assert await first.put("b")
            assert not await first.put("unknown")
            await first.close()
            inode = os.fstat(device.fileno()).st_ino
        second = Volumes().keeping(path)
        held = await second.start()
        assert {name: (entry.state, entry.spec) for name, entry in held.items()} == {
            "a": ({"n": 1}, b"spec a"),
            "b": ({"n": 2}, b"spec b"),
        }
        assert held["b"].fuse_fd is None
        fuse_fd = held["a"].fuse_fd
        assert fuse_fd is not None
        assert os.fstat(fuse_fd).st_ino == inode
        assert not os.get_inheritable(fuse_fd)
        os.close(fuse_fd)
        await second.drop("a")
        await second.close()

    try:
        asyncio.run(run())
        assert keeper.ask(op="list")[0]["names"] == ["b"]
    finally:
        keeper.close()


@pytest.mark.parametrize("there_at_first", [True, False])
def test_a_new_keeper_gets_everything_again(
    tmp_path: Path, volumes: Volumes, there_at_first: bool
) -> None:
    """As it is by then, not as it was when it was put."""
    path = tmp_path / "keeper.sock"
    keeper = Running(path) if there_at_first else None

    async def run() -> None:
        keeping = volumes.keeping(path)
        await keeping.start()
        volumes.entries["a"] = Held({"n": 1}, b"spec")
        assert await keeping.put("a") is there_at_first
        assert keeping.connected is there_at_first
        if keeper is not None:
            await asyncio.to_thread(keeper.close)
            await until(lambda: not keeping.connected)
            assert not await keeping.put("a")
        volumes.entries["a"] = Held({"n": 2}, b"new spec")
        successor = await asyncio.to_thread(Running, path)
        try:
            await until(lambda: keeping.connected)
            await until(lambda: successor.keeper.store._entries)
            (answer, fds) = await asyncio.to_thread(lambda: successor.ask(op="get", name="a"))
            assert answer["state"] == {"n": 2}
            assert unseal(fds[0]) == b"new spec"
            os.close(fds[0])
        finally:
            await keeping.close()
            await asyncio.to_thread(successor.close)

    asyncio.run(run())


def test_nonsense_that_is_held_is_left_out(tmp_path: Path, volumes: Volumes) -> None:
    path = tmp_path / "keeper.sock"
    keeper = Running(path)
    try:
        keeper.ask(op="put", name="nonsense", state={})

        async def run() -> None:
            keeping = volumes.keeping(path)
            assert await keeping.start() == {}
            await keeping.close()

        asyncio.run(run())
    finally:
        keeper.close()


def test_a_call_given_up_does_not_shift_the_answers(tmp_path: Path, volumes: Volumes) -> None:
    path = tmp_path / "keeper.sock"
    keeper = Running(path)

    async def run() -> None:
        keeping = volumes.keeping(path)
        await keeping.start()
        volumes.entries["a"] = Held({"n": 1}, b"spec")
        for _ in range(20):
            task = asyncio.create_task(keeping.put("a"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await until(lambda: keeping.connected)
        assert await keeping.put("a")
        await keeping.close()

    try:
        asyncio.run(run())
    finally:
        keeper.close()


def test_what_could_not_be_dropped_is_dropped_later(tmp_path: Path, volumes: Volumes) -> None:
    """A keeper that did not answer for a while has it still, secrets included."""
    path = tmp_path / "keeper.sock"
    keeper = Running(path)

    async def run() -> None:
        keeping = volumes.keeping(path)
        await keeping.start()
        for name in "ab":
            volumes.entries[name] = Held({}, b"spec")
            assert await keeping.put(name)
        keeping._disconnect()
        del volumes.entries["a"]
        await keeping.drop("a")
        await until(lambda: keeping.connected)
        await until(lambda: set(keeper.keeper.store._entries) == {"b"})
        await keeping.close()

    try:
        asyncio.run(run())
    finally:
        keeper.close()


def fill_queue(path: Path) -> None:
    """Connect in vain until no more connections are taken, and give each up."""
    with contextlib.ExitStack() as ends, contextlib.suppress(BlockingIOError):
        while True:
            end = ends.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            end.setblocking(False)
            end.connect(str(path))


@pytest.mark.parametrize("full", [False, True])
def test_a_keeper_that_answers_late_is_waited_for(
    tmp_path: Path, volumes: Volumes, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """What it holds keeps mounts alive; without it they count as dead."""
    monkeypatch.setattr(keeping, "ANSWER_TIMEOUT", 0.05)
    monkeypatch.setattr(keeping, "RETRY_MAX", 0.05)
    path = tmp_path / "keeper.sock"
    stopped = Keeper(str(path))
    stopped.store.handle({"op": "put", "name": "a", "state": {}}, [seal(b"spec")])
    if full:
        fill_queue(path)
    connect, connected = Keeping._connect, 0
    goes_on = threading.Event()

    def serve() -> None:
        while goes_on.is_set():
            stopped.step(0.02)

    thread = threading.Thread(target=serve)

    def connecting(self: Keeping) -> bool:
        nonlocal connected
        connected += 1
        if connected == 3:
            goes_on.set()
            thread.start()
        return connect(self)

    monkeypatch.setattr(Keeping, "_connect", connecting)

    async def run() -> None:
        started = volumes.keeping(path)
        assert [entry.spec for entry in (await started.start()).values()] == [b"spec"]
        assert started.connected
        await started.close()

    try:
        asyncio.run(run())
    finally:
        goes_on.clear()
        if thread.ident is not None:
            thread.join()
        stopped.store.handle({"op": "drop", "name": "a"}, [])
        stopped.close()


def test_what_is_too_large_for_a_keeper_keeps_others_from_nothing(
    tmp_path: Path, volumes: Volumes
) -> None:
    path = tmp_path / "keeper.sock"
    keeper = Running(path)

    async def run() -> None:
        started = volumes.keeping(path)
        await started.start()
        volumes.entries["large"] = Held({"text": "x" * LIMIT}, b"spec")
        volumes.entries["small"] = Held({}, b"spec")
        assert not await started.put("large")
        assert await started.put("small")
        assert started.connected
        await started.close()

    try:
        asyncio.run(run())
    finally:
        keeper.close()


def test_a_moment_without_descriptors_is_not_the_end_of_keeping(
    tmp_path: Path, volumes: Volumes
) -> None:
    """Or this process could never be replaced again without the mounts."""
    path = tmp_path / "keeper.sock"
    keeper = Running(path)
    refused = 0

    def names() -> list[str]:
        nonlocal refused
        refused += 1
        if refused < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return list(volumes.entries)

    async def run() -> None:
        keeping = Keeping(path, names, volumes.entries.get)
        await keeping.start()
        volumes.entries["a"] = Held({"n": 1}, b"spec")
        keeping._disconnect()
        await until(lambda: refused == 3 and keeping.connected)
        assert set(keeper.keeper.store._entries) == {"a"}
        await keeping.close()

    try:
        asyncio.run(run())
    finally:
        keeper.close()
