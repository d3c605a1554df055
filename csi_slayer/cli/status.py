"""``csi-slayer status``."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from csi_slayer.cache.layout import conflicts_of
from csi_slayer.cli import control
from csi_slayer.cli.leftover import is_nothing
from csi_slayer.cli.output import console, fail, failing, size
from csi_slayer.errors import SlayerError
from csi_slayer.node import registry

AT_ONCE = 16
"""Workers that are asked at the same time: those that hang each take seconds."""

FAILING_SHOWN = 3
"""Keys whose uploads fail that are shown to people: most often they fail for one reason."""


def status(
    path: Annotated[
        str | None, typer.Argument(help="Only the volume mounted there; else all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, for programs.")] = False,
) -> None:
    """Show the mounted volumes: capabilities, cache, dirty bytes, pending uploads.

    \b
    [bold]Examples[/bold]
      csi-slayer status
      csi-slayer status /mnt
      csi-slayer status --json | jq '.[].dirty_bytes'
    """
    with failing(), ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(_one, _wanted(path)))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        console.print("no volume is mounted")
    for volume in found:
        _show(volume)


def _wanted(path: str | None) -> list[registry.Mounted]:
    if path is None:
        return [entry for entry in registry.mounts() if not _forget(entry)]
    found = control.mount_of(path)
    if found is None:
        fail(f"{path} is not in a mounted volume (csi-slayer status without a path shows them)")
    return [found[0]]


def _forget(entry: registry.Mounted) -> bool:
    """Remove an entry that a supervisor has left which was killed, if it is of no use."""
    if not is_nothing(entry):
        return False
    registry.remove(entry.volume)
    return True


def _one(entry: registry.Mounted) -> dict[str, Any]:
    base = {"volume": entry.volume, "url": entry.url, "mountpoint": entry.mountpoint}
    try:
        (answer,) = control.ask(entry, "status", timeout=3.0)
        return answer
    except SlayerError as error:
        return {**base, "error": str(error)}


def _show(volume: dict[str, Any]) -> None:
    table = _Lines(f"{volume['url']} at {volume['mountpoint']}")
    if "error" in volume:
        table.add_row("state", volume["error"])
        table.show()
        return
    counters, cache = volume["counters"], volume["cache"]
    read = counters["cache_hit_bytes"] + counters["cache_miss_bytes"]
    table.add_row("volume", volume["volume"])
    table.add_row("worker", f"pid {volume['pid']}, up {volume['uptime']:.0f} s, "
                            f"{volume['restarts']} restarts")  # fmt: skip
    mode = "read-only" if volume["read_only"] else f"durability {volume['durability']}"
    table.add_row("mode", mode)
    table.add_row("kernel", ", ".join(volume["capabilities"]) or "no optional capability")
    table.add_row("open files", str(volume["open_files"]))
    table.add_row("used", size(volume["used_bytes"])
                  + (f" of {size(volume['quota'])}" if volume["quota"] else ""))  # fmt: skip
    waits = volume["oldest_pending"]
    table.add_row("dirty", f"{size(volume['dirty_bytes'])} staged, "
                           f"{volume['pending_uploads']} keys pending"
                           f"{f', the oldest for {_age(waits)}' if waits else ''}")  # fmt: skip
    table.add_row("cache", f"{size(cache['bytes'])} of {size(cache['capacity'])} in "
                           f"{cache['segments']} segments at {cache['directory']}")  # fmt: skip
    if volume["conflicts"]:
        where = conflicts_of(Path(cache["directory"]), volume["volume"])
        table.add_row("conflicts", f"{volume['conflicts']} kept in {where}: they take room of the "
                                   "cache until somebody removes them")  # fmt: skip
    share = 100 * counters["cache_hit_bytes"] / read if read else 0
    table.add_row("reads", f"{size(read)} through the worker, {share:.0f} % from the cache; "
                           f"{counters['passthrough_opens']} of {counters['opens']} opens "
                           "served by the kernel alone")  # fmt: skip
    table.add_row("store", f"{counters['store_requests']} requests, "
                           f"{size(counters['store_received_bytes'])} received, "
                           f"{size(counters['store_sent_bytes'])} sent")  # fmt: skip
    store, failing = volume["store"], volume["failing"]
    if not store["answers"]:
        since = _age(max(0.0, time.time() - store["last_success"]))
        good = f"nothing done for {since}" if store["last_success"] else "nothing done yet"
        table.add_row("", f"{good}; {store['last_error']}")
    for failure in failing[:FAILING_SHOWN]:
        table.add_row("failing", f"{failure['key']}: {failure['error']}")
    if len(failing) > FAILING_SHOWN:
        table.add_row("", f"and {len(failing) - FAILING_SHOWN} or more others: --json shows them")
    table.show()


class _Lines:
    """A name and a text each: a table that fits a terminal; elsewhere, where programs look for
    lines, as long as they are."""

    def __init__(self, title: str) -> None:
        self._title = _one_line(title)
        self._rows: list[tuple[str, str]] = []

    def add_row(self, name: str, text: str) -> None:
        self._rows.append((name, _one_line(text)))

    def show(self) -> None:
        if not console.is_terminal:
            console.print(self._title)
            for name, text in self._rows:
                console.print(f" {name:<10}  {text}")
            return
        table = Table(title=self._title, show_header=False, title_justify="left", box=None)
        table.add_column()
        table.add_column(overflow="fold")  # what is to be typed is shown whole
        for row in self._rows:
            table.add_row(*row)
        console.print(table)


def _one_line(text: str) -> str:
    """Names in a volume may have ends of lines, and are not to look like another row."""
    return text.replace("\n", "\\n")


def _age(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
