"""The fault proxy, for clients that reset a connection while it is being answered."""

from __future__ import annotations

import asyncio

from tests.support.faultproxy import FaultProxy
from tests.support.proxy_exchange import Exchange


class ResettableProxy(FaultProxy):
    """uvloop says RuntimeError, not OSError, to a write on a connection that was just reset."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(reader, writer, self._origin)
        try:
            while await exchange.one(self._note):
                pass
            exchange.close()
        except (
            OSError,
            RuntimeError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            asyncio.CancelledError,
            ValueError,
        ):
            exchange.abort()
