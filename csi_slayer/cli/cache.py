"""``csi-slayer cache``: usage, evict, verify. Works on the cache directory; needs no worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from csi_slayer.cache import Cache, evict_all, verify_all
from csi_slayer.cli.output import console, fail, failing, size
from csi_slayer.config.node import default_cache_capacity, default_cache_directory

cache_app = typer.Typer(
    name="cache", help="Look at, check or empty the node's cache.", no_args_is_help=True
)

Directory = Annotated[
    Path | None, typer.Option("--cache-dir", help="Directory of the cache; else the default one.")
]


def _open(directory: Path | None) -> Cache:
    path = (directory or default_cache_directory()).absolute()
    if not path.is_dir():
        fail(f"{path} does not exist: no volume has cached anything there")
    return Cache(path, default_cache_capacity(path))


@cache_app.command()
def usage(
    cache_dir: Directory = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how much the cache holds.

    \b
    [bold]Example[/bold]
      csi-slayer cache usage --cache-dir /var/cache/slayerfs
    """
    with failing():
        cache = _open(cache_dir)
        found = cache.usage()
        cache.close()
    if as_json:
        print(json.dumps(found._asdict()))
        return
    console.print(f"{size(found.used)} cached in {found.segments} segments")
    console.print(f"{size(found.staged)} staged besides: written, and perhaps not yet in the store")
    console.print(f"{size(found.free)} free on the file system")


@cache_app.command()
def evict(cache_dir: Directory = None) -> None:
    """Remove all cached data that nobody has open; staged writes always stay.

    \b
    [bold]Example[/bold]
      csi-slayer cache evict
    """
    with failing():
        cache = _open(cache_dir)
        removed = evict_all(cache)
        cache.close()
    console.print(f"{removed.segments} segments removed, {size(removed.size)} freed")


@cache_app.command()
def verify(cache_dir: Directory = None) -> None:
    """Check every cached block against its checksum; bad ones are dropped and fetched again.

    Ends with status 2 if there were any.

    \b
    [bold]Example[/bold]
      csi-slayer cache verify
    """
    columns = (SpinnerColumn(), TextColumn("{task.completed} segments checked"))
    with failing(), Progress(*columns, console=console) as progress:
        task = progress.add_task("verify", total=None)
        cache = _open(cache_dir)
        result = verify_all(cache, lambda found: progress.update(task, completed=found.segments))
        cache.close()
    console.print(
        f"{result.segments} segments, {size(result.size)} checked; "
        f"{result.bad_blocks} bad blocks in {result.bad_segments} segments dropped"
    )
    if result.bad_segments:
        raise typer.Exit(2)
