"""How long work shows that it gets on."""

from __future__ import annotations

from rich.progress import Progress, ProgressColumn

from csi_slayer.cli.output import errors


def showing(*columns: ProgressColumn, transient: bool = False) -> Progress:
    """On standard error, and where that is a terminal only: output is for programs, too."""
    shown = errors.is_terminal
    return Progress(*columns, console=errors, transient=transient, disable=not shown)
