"""``csi-slayer controller``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csi_slayer.cli.output import failing


def controller(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML or TOML file of the driver (driver.yaml).")
    ],
) -> None:
    """Be the CSI driver's controller: make, copy, resize and delete volumes and snapshots in S3.

    Serves controller.socket for the sidecars of Kubernetes. Keeps no state: it may run twice, and
    be killed at any time.

    \b
    [bold]Example[/bold]
      csi-slayer controller --config /etc/slayerfs/driver.yaml
    """
    from csi_slayer.cli.serving import serve  # gRPC is large, and no other command needs it
    from csi_slayer.csi.processes import controller as process

    with failing():
        serve(config, process)
