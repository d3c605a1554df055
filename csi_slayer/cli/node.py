"""``csi-slayer node``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csi_slayer.cli.output import failing


def node(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML or TOML file of the driver (driver.yaml).")
    ],
) -> None:
    """Be the CSI driver's node service: mount volumes for the kubelet of this machine.

    Serves csi.sock in node.run_directory and registers with the kubelet. Needs root. SIGTERM ends
    it; mounts stay, held by the keeper, for the next one to take over.

    \b
    [bold]Examples[/bold]
      csi-slayer node --config /etc/slayerfs/driver.yaml
      NODE_NAME=worker-1 csi-slayer node -c driver.yaml
    """
    from csi_slayer.cli.serving import serve  # gRPC is large, and no other command needs it
    from csi_slayer.csi.processes import node as process

    with failing():
        serve(config, process)
