"""When the channel looks for the next request without going to sleep."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import socket
from collections.abc import Callable

import pytest

from csi_slayer.fuse import channel as channel_module
from csi_slayer.fuse.channel import Buffer, Channel

WRITE, OTHER = b"w" * 4200, b"o" * 64


def serve(
    monkeypatch: pytest.MonkeyPatch, first: bytes, late: bytes | None, *, kept: bool = False
) -> tuple[list[int], int]:
    """One turn of the loop with ``first``, while ``late`` comes at the third look if there is one.
    Returns the requests' sizes and how many looks there were."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    device.setblocking(False)
    sizes: list[int] = []
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3 and late is not None:
            kernel.send(late)

    monkeypatch.setattr(channel_module.os, "sched_yield", look)

    async def turn() -> None:
        channel = Channel(device.fileno(), 1 << 17, asyncio.get_running_loop())

        def handle(_buffer: object, length: int) -> bool:
            sizes.append(length)
            return kept

        closed: Callable[[], None] = pytest.fail
        kernel.send(first)
        channel.start(handle, closed)
        channel._readable()
        channel.close()

    with kernel, device:
        asyncio.run(turn())
    return sizes, looks


def test_a_writer_that_is_back_at_once_is_answered_in_the_same_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, looks = serve(monkeypatch, WRITE, WRITE)
    assert sizes == [len(WRITE)] * 2
    assert 3 < looks <= 32


def test_a_writer_that_does_not_come_back_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, looks = serve(monkeypatch, WRITE, None)
    assert sizes == [len(WRITE)]
    assert looks == channel_module._LOOKS


def test_after_another_request_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch, OTHER, OTHER) == ([len(OTHER)], 0)
    sizes, looks = serve(monkeypatch, WRITE, OTHER)
    assert (sizes, looks) == ([len(WRITE), len(OTHER)], 3)


def test_nobody_looks_while_a_write_is_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch, WRITE, WRITE, kept=True) == ([len(WRITE)], 0)


def test_requests_are_read_to_where_no_page_is_missing() -> None:
    """Else a reader that is killed while one is brought in makes its request fail with EIO."""
    size = 257 * mmap.PAGESIZE
    buffer = Buffer(size)
    first = ctypes.addressof(ctypes.c_char.from_buffer(buffer.view)) // mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(first * 8)
        entries = memoryview(pages.read(257 * 8)).cast("Q")
    assert sum(entry >> 63 for entry in entries) == 257
