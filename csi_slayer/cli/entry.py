"""Where the command starts. Its modules take a moment to load: they are not imported before
Ctrl-C is dealt with."""

from __future__ import annotations

from csi_slayer.cli.interrupts import end_at_once


def run() -> None:
    """The program ``csi-slayer``."""
    end_at_once()
    from csi_slayer.cli.main import app

    app()
