"""What a command says of files that a worker has left to upload when it ended."""

from __future__ import annotations

import shlex
from pathlib import Path

from csi_slayer.cache.layout import staging_of
from csi_slayer.cli.output import console
from csi_slayer.fuse.mount import is_mounted
from csi_slayer.node import registry
from csi_slayer.node.leftover import unsaved
from csi_slayer.node.lock import is_locked


def is_nothing(entry: registry.Mounted) -> bool:
    """Whether nobody serves an entry's volume, nothing is mounted there, and the store has all."""
    return (
        not is_locked(entry.state)
        and not is_mounted(entry.mountpoint)
        and unsaved(Path(entry.state), _staging(entry)) == 0
    )


def tell_of_unsaved(entry: registry.Mounted) -> None:
    """Say what is staged, and how to go on, if anything is; no worker may be there any more."""
    left = unsaved(Path(entry.state), _staging(entry))
    if left:
        number = f"{left} keys are" if left > 0 else "what was written last may be"
        console.print(
            f"{number} not uploaded yet, and staged in {entry.cache}\n{how_to_go_on(entry)}",
            style="yellow",
        )


def how_to_go_on(entry: registry.Mounted) -> str:
    """Two lines: how to have the rest uploaded, and how to be rid of it."""
    discard = shlex.join(["rm", "-r", entry.state, str(_staging(entry))])
    return (
        f"to finish: mount {entry.url} at {entry.mountpoint} again\n"
        f"to discard: csi-slayer umount {shlex.quote(entry.mountpoint)} --force (if a worker is "
        f"there), then {discard}"
    )


def _staging(entry: registry.Mounted) -> Path:
    return staging_of(Path(entry.cache), entry.volume)
