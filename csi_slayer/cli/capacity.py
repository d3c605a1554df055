"""The capacity that the processes of a cache keep to."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from csi_slayer.cli import control
from csi_slayer.errors import SlayerError
from csi_slayer.node import registry

ASK_TIMEOUT = 1.0
ASK_ALL = 5.0
"""Seconds for one worker's answer, and for those of all."""


def known_capacities(cache: Path) -> list[int]:
    """In bytes, as far as workers with this cache directory tell; each but once, in order."""
    found = set()
    end = time.monotonic() + ASK_ALL
    for entry in registry.mounts():
        left = end - time.monotonic()
        if left <= 0:
            break
        if os.path.realpath(entry.cache) != os.path.realpath(cache):
            continue
        with suppress(SlayerError, KeyError, TypeError, ValueError):
            for answer in control.ask(entry, "status", timeout=min(ASK_TIMEOUT, left)):
                found.add(int(answer["cache"]["capacity"]))
    return sorted(found)
