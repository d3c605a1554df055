"""The application: one module per command."""

from __future__ import annotations

from typing import Annotated

import typer

from csi_slayer import __version__
from csi_slayer.cli.cache import cache_app
from csi_slayer.cli.controller import controller
from csi_slayer.cli.doctor import doctor
from csi_slayer.cli.keeper import keeper
from csi_slayer.cli.mount import mount
from csi_slayer.cli.node import node
from csi_slayer.cli.status import status
from csi_slayer.cli.umount import umount
from csi_slayer.cli.warm import warm
from csi_slayer.worker.cores import forbid_core_dumps

EPILOG = """\b
[bold]Examples[/bold]
  csi-slayer doctor s3://bucket/prefix
  csi-slayer mount s3://bucket/prefix /mnt --endpoint http://127.0.0.1:9000
  csi-slayer status /mnt
  csi-slayer umount /mnt
"""

app = typer.Typer(
    name="csi-slayer",
    epilog=EPILOG,
    help="S3-compatible storage as a directory that survives crashes and runs at local speed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """S3-compatible storage as a directory that survives crashes and runs at local speed."""
    forbid_core_dumps()


app.command()(mount)
app.command()(umount)
app.command()(status)
app.command()(warm)
app.add_typer(cache_app)
app.command()(doctor)
app.command(rich_help_panel="Kubernetes")(node)
app.command(rich_help_panel="Kubernetes")(keeper)
app.command(rich_help_panel="Kubernetes")(controller)
