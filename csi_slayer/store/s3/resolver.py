"""The addresses of the server's name, or of its proxy's, asked for now and then: services move by
DNS."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.aside import aside
from csi_slayer.store.s3.target import Target, connect_failure

# What ``getaddrinfo`` gives: family, kind, protocol, name, address.
Addresses = Sequence[tuple[Any, ...]]

# How long an answer is used (seconds).
_LIFE = 30.0


class Resolver:
    """Used on the event loop; one question at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._addresses: Addresses = ()
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._question: asyncio.Future[Addresses] | None = None

    async def addresses(self) -> Addresses:
        """At least one address; old ones while the name service is away. Raises Transient."""
        if time.monotonic() - self._asked_at > _LIFE:
            async with self._asking:
                if time.monotonic() - self._asked_at > _LIFE:
                    await self._ask()
        return self._addresses

    def forget(self) -> None:
        """None of them could be connected to: ask again."""
        self._asked_at = float("-inf")

    async def _ask(self) -> None:
        target = self._target
        try:
            # One that lasts for longer than it is waited for is not asked a second time meanwhile.
            question = self._question
            if question is None or question.done():
                ask = partial(socket.getaddrinfo, *target.hop, type=socket.SOCK_STREAM)
                self._question = question = aside(ask)
            async with asyncio.timeout(target.connect_timeout):
                found = await asyncio.shield(question)
        except (OSError, Transient) as error:
            if not self._addresses:
                raise connect_failure(target, error) from error
        else:
            if not found:
                raise Transient(f"{target}: the name has no address")
            self._addresses = found
        self._asked_at = time.monotonic()
