"""The client of a worker's control socket."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from csi_slayer.errors import SlayerError
from csi_slayer.node import registry
from csi_slayer.node.lock import is_locked

_MOST_STEPS = 1000
"""Parts of a path that are looked at for symbolic links, which may lead in a circle."""


class NoWorker(SlayerError):
    """The volume's worker does not answer."""


class Busy(NoWorker):
    """It does not answer this client, for it serves others."""


def ask(
    entry: registry.Mounted,
    op: str,
    *,
    timeout: float = 10.0,
    within: float | None = None,
    **values: Any,
) -> Iterator[dict[str, Any]]:
    """Send one request; yields the answers. ``timeout``: longest silence, ``within``: longest time
    in all, seconds.

    Raises NoWorker, or SlayerError with the worker's own words.
    """
    end = math.inf if within is None else time.monotonic() + within
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(min(timeout, end - time.monotonic()))
        try:
            client.connect(entry.control)
            with contextlib.suppress(BrokenPipeError):  # refused: the reason can still be read
                client.sendall(json.dumps({"op": op, **values}).encode() + b"\n")
            with client.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "busy" in answer:
                        why = f"is busy ({answer['busy']}): try again"
                        raise Busy(f"the worker of {entry.mountpoint} {why}")
                    if "error" in answer:
                        raise SlayerError(str(answer["error"]))
                    if answer.get("done"):
                        return
                    yield answer
                    left = end - time.monotonic()
                    if left <= 0:
                        raise TimeoutError("timed out")
                    client.settimeout(min(timeout, left))
        except (OSError, ValueError) as error:
            if is_locked(entry.state) is False:
                raise NoWorker(
                    f"nobody serves {entry.mountpoint} any more: its worker and its supervisor "
                    f"were killed; mount {entry.url} there again to go on"
                ) from error
            raise NoWorker(
                f"the worker of {entry.mountpoint} does not answer ({error}); "
                "it may be restarting: try again, or see its log"
            ) from error
    raise NoWorker(f"the worker of {entry.mountpoint} ended while it answered")


def mount_of(path: str) -> tuple[registry.Mounted, str] | None:
    """The mount that a path lies in, and the path within it. Never touches the mount."""
    entries = list(registry.mounts())
    full = os.path.abspath(path)
    places = {entry.mountpoint for entry in entries}
    return _mount_of(full, entries) or _mount_of(_without_links(full, places), entries)


def _mount_of(full: str, entries: list[registry.Mounted]) -> tuple[registry.Mounted, str] | None:
    best: registry.Mounted | None = None
    for entry in entries:
        inside = full == entry.mountpoint or full.startswith(entry.mountpoint.rstrip("/") + "/")
        if inside and (best is None or len(entry.mountpoint) >= len(best.mountpoint)):
            best = entry
    if best is None:
        return None
    return best, full[len(best.mountpoint) :].strip("/")


def _without_links(path: str, mountpoints: set[str]) -> str:
    """The path with the symbolic links resolved that are above a mount point."""
    done, ahead = "", path.split("/")[:0:-1]
    for _ in range(_MOST_STEPS):
        if not ahead or done in mountpoints:
            break
        here = f"{done}/{ahead.pop()}"
        try:
            target = None if here in mountpoints else os.readlink(here)
        except OSError:
            target = None
        if target is None:
            done = here
            continue
        rest = os.path.abspath(os.path.join(done or "/", target))
        done, ahead = "", ahead + rest.split("/")[:0:-1]
    return "/".join([done, *reversed(ahead)])
