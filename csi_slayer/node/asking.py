"""Asking a worker by its control socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from csi_slayer.errors import MountFailed

LONGEST_ANSWER = 16 << 20
"""Bytes of one line: metrics of a busy volume are one."""


async def ask(control: str, op: str, *, timeout: float, **values: Any) -> dict[str, Any]:
    """The last thing that the worker answers. ``timeout``: seconds for all of it.

    Raises MountFailed (UNAVAILABLE) if there is no answer, or with what the worker says is wrong.
    """
    last: dict[str, Any] = {}
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(control, limit=LONGEST_ANSWER)
            try:
                writer.write(json.dumps({"op": op, **values}).encode() + b"\n")
                while True:
                    answer = json.loads(await reader.readuntil(b"\n"))
                    if "error" in answer:
                        raise MountFailed(str(answer["error"]))
                    if answer.get("done"):
                        await reader.read()  # the worker closes first, and need not log that we did
                        return last
                    last = answer
            finally:
                writer.close()
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        reason = str(error) or type(error).__name__
        raise MountFailed(
            f"the volume's worker does not answer ({reason})", "UNAVAILABLE"
        ) from None
