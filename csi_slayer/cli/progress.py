"""How long work shows that it gets on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, ProgressColumn

from csi_slayer.cli.output import errors, terminable


@contextmanager
def showing(*columns: ProgressColumn, transient: bool = False) -> Iterator[Progress]:
    """On standard error, and where that is a terminal only: output is for programs, too. A signal
    that ends is Terminated within the block, so that the terminal gets its cursor back."""
    shown = errors.is_terminal
    with (
        terminable(),
        Progress(*columns, console=errors, transient=transient, disable=not shown) as progress,
    ):
        yield progress
