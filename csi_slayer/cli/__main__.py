"""``python -m csi_slayer.cli``."""

from csi_slayer.cli.entry import run

run()
