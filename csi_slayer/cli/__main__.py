"""``python -m csi_slayer.cli``."""

from csi_slayer.cli.main import app

app()
