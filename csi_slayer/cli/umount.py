"""``csi-slayer umount``."""

from __future__ import annotations

import contextlib
import errno
import shlex
import time
from typing import Annotated

import typer
from rich.progress import SpinnerColumn, TextColumn

from csi_slayer.cli import control
from csi_slayer.cli.ending import end_worker, free
from csi_slayer.cli.leftover import how_to_go_on, tell_of_unsaved
from csi_slayer.cli.output import console, fail, failing
from csi_slayer.cli.progress import showing
from csi_slayer.errors import SlayerError
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse.mount import is_mounted
from csi_slayer.node import registry
from csi_slayer.worker.spec import LONGEST_DRAIN

GRACE = 2.0
"""Seconds beyond the timeout that the worker may take to end."""


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
        typer.Option(
            "--force",
            help="Even if busy or hanging, and end the worker. Staged writes are kept for later.",
        ),
    ] = False,
) -> None:
    """Upload what is pending, unmount, and wait for the worker to end.

    \b
    [bold]Examples[/bold]
      csi-slayer umount /mnt
      csi-slayer umount /mnt --timeout 10
      csi-slayer umount /mnt --force
    """
    if not mountpoint:  # a script's variable that was never set is no name for where we are
        fail("say what to unmount: csi-slayer umount /mnt")
    target = mounts.resolve(mountpoint)
    deadline = time.monotonic() + timeout
    with failing():
        entry = registry.find(target)
        if not is_mounted(target) and entry is None:
            fail(f"{target} is not mounted (csi-slayer status shows what is)")
        if mounts.is_covered(target):
            fail(f"something else is mounted on top of the volume at {target}: umount "
                 f"{shlex.quote(target)} first")  # fmt: skip
        left = 0
        if entry is not None and not force:
            left = _drain(entry, timeout)
        _unmount(target, force)
        console.print(f"{target} is unmounted")
        if entry is None:
            console.print(
                "no worker is registered for it here, so nobody has waited for uploads: what was"
                " written last may still be on its way to the store (one that another user has"
                " mounted, or the same with another XDG_RUNTIME_DIR, is known there)",
                style="yellow",
            )
            return
        if force:
            _end(entry)
        elif left or not free(entry, deadline + GRACE - time.monotonic()):
            _tell_of_uploads(entry, left)


def _drain(entry: registry.Mounted, timeout: float) -> int:
    """How many keys are left, as far as the worker has said."""
    left = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with showing(*columns, transient=True) as progress:
        task = progress.add_task("uploading what is pending")
        try:
            for answer in control.ask(
                entry, "drain", timeout=timeout + 1, within=timeout + 1, seconds=timeout
            ):
                left = int(answer.get("left", 0))
                progress.update(task, description=f"uploading what is pending: {left} keys left")
        except SlayerError as error:
            console.print(f"not waiting for uploads: {error}", style="yellow")
    return left


def _tell_of_uploads(entry: registry.Mounted, left: int) -> None:
    what = f"{left} keys are still to be uploaded" if left else "the worker has not ended yet"
    console.print(
        f"{what}: the worker goes on for up to an hour (csi-slayer status shows it), and what it "
        f"cannot upload stays staged in {entry.cache}\n{how_to_go_on(entry)}",
        style="yellow",
    )


def _end(entry: registry.Mounted) -> None:
    if not end_worker(entry, unmounting=True):
        console.print(
            f"the worker has not ended: see log.file, or {entry.state}/worker.log", style="yellow"
        )
        return
    tell_of_unsaved(entry)


def _unmount(target: str, force: bool) -> None:
    if not is_mounted(target):
        return
    if force:
        entry = mounts.find(target)
        if entry is not None:
            with contextlib.suppress(OSError):  # it ends with its worker as well
                mounts.abort(entry.connection)
    try:
        mounts.unmount(target, lazy=force)
    except OSError as error:
        if error.errno == errno.EBUSY:
            fail(f"{target} is in use: close what has files open or its directory there "
                 f"(fuser -vm {shlex.quote(target)} shows it), or use --force")  # fmt: skip
        fail(f"cannot unmount {target}: {error.strerror}")
