"""Taking a connection over, with a socket in the kernel's place."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.protocol import Notify
from csi_slayer.fuse.session import Session
from tests.unit.fuse.fakekernel import negotiated


class Ops:
    def attach(self, kernel: object) -> None: ...


@pytest.mark.parametrize("resends", [True, False])
def test_requests_come_again_only_when_they_are_read_at_once(resends: bool) -> None:
    """Until then a caller that is killed would take back what a predecessor has done for it."""

    async def run() -> None:
        kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kernel.setblocking(False)
        state = negotiated(() if resends else ("resend",))
        session = Session.resume(device.detach(), state, cast(Any, Ops()))
        with kernel:
            with pytest.raises(BlockingIOError):
                kernel.recv(100)
            serving = asyncio.ensure_future(session.run())
            await asyncio.sleep(0)
            if resends:
                assert kernel.recv(100) == p.OUT_HEADER.pack(16, Notify.RESEND, 0)
            with pytest.raises(BlockingIOError):
                kernel.recv(100)
            await session.stop()
        assert not await serving
        session.close()

    asyncio.run(run())
