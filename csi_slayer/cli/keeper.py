"""``csi-slayer keeper``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


def keeper(
    socket: Annotated[Path, typer.Option("--socket", "-s", help="Where the node service asks.")],
) -> None:
    """Hold the mounts of the node service while it is restarted or upgraded.

    A separate process, so that nothing else makes it end; it hardly ever changes. It replaces
    itself by a small program without any of the packages that this command has loaded.

    \b
    [bold]Example[/bold]
      csi-slayer keeper --socket /var/lib/kubelet/plugins/csi.slayerfs.io/keeper.sock
    """
    spec = find_spec("csi_slayer.node.keeper")
    assert spec is not None and spec.origin is not None
    os.execv(sys.executable, [sys.executable, "-P", spec.origin, str(socket.absolute())])
