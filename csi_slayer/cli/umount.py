"""``csi-slayer umount``."""

from __future__ import annotations

import errno
import time
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from csi_slayer.cli import control
from csi_slayer.cli.output import console, fail, failing
from csi_slayer.errors import SlayerError
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse.mount import is_mounted
from csi_slayer.node import registry
from csi_slayer.node.lock import is_locked
from csi_slayer.worker.spec import LONGEST_DRAIN

END_TIMEOUT = 30.0
"""Seconds to wait for the worker's end once nothing is pending any more."""


def umount(
    mountpoint: Annotated[
        str,  # no Path: typer would ask what is there, and wait for a mount that hangs
        typer.Argument(help="Where the volume is mounted."),
    ],
    timeout: Annotated[
        float,
        typer.Option(
            min=0,
            max=LONGEST_DRAIN,
            help="Seconds to wait for uploads; the rest goes on behind.",
        ),
    ] = 300.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even if busy or hanging. Staged writes are kept for later."),
    ] = False,
) -> None:
    """Upload what is pending, unmount, and wait for the worker to end.

    \b
    [bold]Examples[/bold]
      csi-slayer umount /mnt
      csi-slayer umount /mnt --timeout 10
      csi-slayer umount /mnt --force
    """
    target = mounts.resolve(mountpoint)
    with failing():
        entry = registry.find(target)
        if not is_mounted(target) and entry is None:
            fail(f"{target} is not mounted")
        if entry is not None and not force:
            _drain(entry, timeout)
        _unmount(target, force)
        if entry is not None:
            _wait(entry, timeout)
        console.print(f"{target} is unmounted")


def _drain(entry: registry.Mounted, timeout: float) -> None:
    left = 0
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), transient=True) as progress:
        task = progress.add_task("uploading what is pending")
        try:
            for answer in control.ask(entry, "drain", timeout=timeout + 30, seconds=timeout):
                left = int(answer.get("left", 0))
                progress.update(task, description=f"uploading what is pending: {left} keys left")
        except SlayerError as error:
            console.print(f"not waiting for uploads: {error}", style="yellow")
    if left:
        console.print(f"{left} keys are still to be uploaded; they stay staged", style="yellow")


def _unmount(target: str, force: bool) -> None:
    if not is_mounted(target):
        return
    if force:
        entry = mounts.find(target)
        if entry is not None:
            mounts.abort(entry.connection)
    try:
        mounts.unmount(target, lazy=force)
    except OSError as error:
        if error.errno == errno.EBUSY:
            fail(f"{target} is in use: close what has files open or its directory there "
                 f"(fuser -vm {target} shows it), or use --force")  # fmt: skip
        fail(f"cannot unmount {target}: {error.strerror}")


def _wait(entry: registry.Mounted, timeout: float) -> None:
    """Until nobody serves the volume any more."""
    deadline = time.monotonic() + max(END_TIMEOUT, timeout)
    while time.monotonic() < deadline:
        if not is_locked(entry.state):
            registry.remove(entry.volume)  # a supervisor that was killed did not
            return
        time.sleep(0.02)
    console.print("uploads go on in the background; csi-slayer status shows them", style="yellow")
