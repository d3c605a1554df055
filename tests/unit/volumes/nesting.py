"""Two CreateVolume calls of which one volume would be within the other."""

from __future__ import annotations

import asyncio
from typing import Any

from csi_slayer.errors import VolumeConflict
from csi_slayer.volumes.provisioner import Provisioner
from tests.unit.volumes.world import Pause, create, persistently

PARAMETERS: dict[str, dict[str, str]] = {"n0": {}, "inner": {"prefix": "n0"}}


async def made_at_once(slow: Provisioner, pause: Pause, other: Provisioner, held: str) -> list[Any]:
    """What was made when ``slow``, at work on ``held``, stood still while ``other`` made the one
    that it would nest with; at most one of them."""
    (besides,) = PARAMETERS.keys() - {held}

    async def settled(p: Provisioner, name: str) -> Any:
        try:
            return await persistently(lambda: create(p, name, parameters=PARAMETERS[name]))
        except VolumeConflict:
            return None

    calling = asyncio.ensure_future(settled(slow, held))
    await pause.hold(calling)
    second = await settled(other, besides)
    pause.go.set()
    made = [volume for volume in (await calling, second) if volume is not None]
    assert len(made) < 2, pause.at
    return made
