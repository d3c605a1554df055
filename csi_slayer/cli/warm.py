"""``csi-slayer warm``."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

from csi_slayer.cli import control
from csi_slayer.cli.output import console, fail, failing, size
from csi_slayer.cli.progress import showing


def warm(
    path: Annotated[
        str,  # no Path: typer would ask what is there, and wait for a mount that hangs
        typer.Argument(help="A file or directory of a mounted volume."),
    ],
) -> None:
    """Fetch a file or a tree into the cache before it is read.

    \b
    [bold]Examples[/bold]
      csi-slayer warm /mnt
      csi-slayer warm /mnt/models/llama
    """
    with failing():
        found = control.mount_of(path)
        if found is None:
            fail(f"{path} is not in a mounted volume (csi-slayer status shows them)")
        entry, inside = found
        last: dict[str, Any] = {"files": 0, "bytes": 0, "failed": 0, "total_files": 0}
        with showing(
            TextColumn("{task.fields[files]} of {task.fields[total_files]} files"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        ) as progress:
            task = progress.add_task("warm", total=None, files=0, total_files=0)
            for answer in control.ask(entry, "warm", timeout=600.0, path=inside):
                last = answer
                progress.update(
                    task,
                    completed=answer["bytes"],
                    total=answer["total_bytes"] or None,
                    files=answer["files"],
                    total_files=answer["total_files"],
                )
        if last["failed"]:
            fail(f"{last['failed']} of {last['total_files']} files could not be fetched; "
                 "see the worker's log")  # fmt: skip
        if last["bytes"] > last.get("capacity", math.inf):
            fail(f"{size(last['bytes'])} were fetched, of which the cache keeps no more than "
                 f"{size(last['capacity'])}: raise cache.capacity, or warm less")  # fmt: skip
        console.print(f"{last['files']} files, {size(int(last['bytes']))} are in the cache")
