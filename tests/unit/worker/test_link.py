"""The socket to the supervisor on the event loop, and the updates that come through it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from csi_slayer.config import MountConfig, load_config
from csi_slayer.errors import AccessDenied
from csi_slayer.worker import channel, updates
from csi_slayer.worker.link import Link
from csi_slayer.worker.mount import Mount
from csi_slayer.worker.updates import Updates

CONFIG = load_config(None, {"store.url": "file:///objects", "cache.directory": "/c"})


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = channel.pair()
    ours.settimeout(10)
    with ours, theirs:
        yield ours, theirs


Ends = tuple[socket.socket, socket.socket]


def test_messages_that_came_early_are_handed_over(ends: Ends) -> None:
    async def body() -> None:
        ours, theirs = ends
        link = Link(theirs, bound=False)
        for number in range(channel.UNREAD + 5):
            channel.send(ours, {"n": number})
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        link.listen(heard.put_nowait)
        channel.send(ours, {"n": "last"})
        numbers = [(await heard.get())["n"]]
        while numbers[-1] != "last":
            numbers.append((await heard.get())["n"])
        assert numbers[:2] == [0, 1]
        # What came before anybody listened was bounded; what was unread in the socket was not lost.
        assert channel.UNREAD < len(numbers) <= channel.UNREAD + 6
        link.close()

    asyncio.run(body())


def test_descriptors_that_nobody_asked_for_are_closed(ends: Ends) -> None:
    async def body() -> None:
        ours, theirs = ends
        link = Link(theirs, bound=False)
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        link.listen(heard.put_nowait)
        before = set(os.listdir("/proc/self/fd"))
        read, write = os.pipe()
        channel.send(ours, {"n": 1}, (read,))
        os.close(read)
        os.close(write)
        assert await heard.get() == {"n": 1}
        assert set(os.listdir("/proc/self/fd")) == before
        link.close()

    asyncio.run(body())


def test_a_supervisor_that_is_gone_hears_nothing(ends: Ends) -> None:
    async def body() -> None:
        ours, theirs = ends
        link = Link(theirs, bound=False)
        ours.close()
        link.say({"ended": 0})
        with pytest.raises(OSError, match=r"[Bb]roken pipe"):
            link.send({"ready": 1})
        link.close()

    asyncio.run(body())


@pytest.mark.allow_log("Traceback")  # of what nobody foresaw
def test_updates_are_applied_one_after_the_other(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[MountConfig] = []
    at_once = 0

    async def apply(_mount: Mount, new: MountConfig) -> tuple[str, ...]:
        nonlocal at_once
        at_once += 1
        assert at_once == 1
        await asyncio.sleep(0)
        at_once -= 1
        if new.volume.quota == 3:
            raise AccessDenied("the store says no")
        if new.volume.quota == 4:
            raise ZeroDivisionError
        applied.append(new)
        return ("log.level",)

    monkeypatch.setattr(updates, "apply", apply)

    async def body() -> None:
        ours, theirs = ends
        link = Link(theirs, bound=False)
        running = Updates(cast(Mount, SimpleNamespace()), link)
        for malformed in ({}, {"update": 1}, {"update": {}}, {"update": {"id": "x"}}):
            channel.send(ours, malformed)
        for number in range(1, 6):
            volume = CONFIG.volume.model_copy(update={"quota": number})
            text = CONFIG.model_copy(update={"volume": volume}).to_spec().decode()
            channel.send(ours, {"update": {"id": number, "config": text}})
        channel.send(ours, {"update": {"id": 6, "config": "{"}})
        answers = []
        for _ in range(6):
            received = await asyncio.to_thread(channel.receive, ours)
            assert received is not None
            answers.append(received[0])
        assert [answer["updated"] for answer in answers if "updated" in answer] == [1, 2, 5]
        assert answers[0]["later"] == ["log.level"]
        failed = {a["update_failed"]: (a["code"], a["error"]) for a in answers if "error" in a}
        assert failed[3] == ("PERMISSION_DENIED", "the store says no")
        assert failed[4][0] == "INTERNAL"
        assert failed[6][0] == "INVALID_ARGUMENT"
        assert [config.volume.quota for config in applied] == [1, 2, 5]
        await running.close()
        link.close()

    asyncio.run(body())


def test_too_many_updates_are_refused(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def apply(_mount: Mount, _new: MountConfig) -> tuple[str, ...]:
        await go_on.wait()
        return ()

    monkeypatch.setattr(updates, "apply", apply)

    async def body() -> None:
        ours, theirs = ends
        link = Link(theirs, bound=False)
        running = Updates(cast(Mount, SimpleNamespace()), link)
        text = CONFIG.to_spec().decode()
        count = channel.UNREAD + 3
        for number in range(count):
            channel.send(ours, {"update": {"id": number, "config": text}})
            await asyncio.sleep(0.001)
        received = await asyncio.to_thread(channel.receive, ours)
        assert received is not None
        assert "waiting already" in received[0]["error"]
        go_on.set()
        answered = [received[0]]
        while len(answered) < count:
            received = await asyncio.to_thread(channel.receive, ours)
            assert received is not None
            answered.append(received[0])
        assert sum("updated" in answer for answer in answered) >= channel.UNREAD
        await running.close()
        link.close()

    asyncio.run(body())
