"""``csi-slayer cache``: usage, evict, verify. Works on the cache directory; needs no worker."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import SpinnerColumn, TextColumn

from csi_slayer.cache import Cache, Counted, count, evict_all, verify_all
from csi_slayer.cli.capacity import known_capacities
from csi_slayer.cli.output import console, fail, failing, size
from csi_slayer.cli.progress import showing
from csi_slayer.config.node import default_cache_capacity, default_cache_directory

EPILOG = """\b
[bold]Examples[/bold]
  csi-slayer cache usage --json
  csi-slayer cache verify --cache-dir /var/cache/slayerfs
  csi-slayer cache evict
"""

cache_app = typer.Typer(
    name="cache",
    help="Look at, check or empty the node's cache.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

COUNT_TIME = 30.0
"""Seconds after which counting ends, whatever there is."""

Directory = Annotated[
    Path | None, typer.Option("--cache-dir", help="Directory of the cache; else the default one.")
]


def _open(directory: Path | None) -> Cache:
    path = (directory or default_cache_directory()).absolute()
    try:
        if not os.listdir(path):
            fail(f"{path} is empty: no volume has cached anything there")
    except FileNotFoundError:
        fail(f"{path} does not exist: no volume has cached anything there")
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    return Cache(path, default_cache_capacity(path))


@cache_app.command()
def usage(
    cache_dir: Directory = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Count what the cache holds at this moment.

    \b
    [bold]Example[/bold]
      csi-slayer cache usage --cache-dir /var/cache/slayerfs
    """
    with failing():
        cache = _open(cache_dir)
        try:
            layout, free = cache.shared.layout, cache.usage().free
            with _counting() as progress:
                found = count(layout, COUNT_TIME, progress)
        finally:
            cache.close()
        capacities = known_capacities(layout.root)
    if as_json:
        # The smallest: beyond it something is evicted.
        capacity = capacities[0] if capacities else None
        print(json.dumps({**asdict(found), "capacity": capacity, "free": free}))
        return
    least, end = ("", "") if found.complete else ("at least ", f" (counted for {COUNT_TIME:.0f} s)")
    known = " or ".join(size(capacity) for capacity in capacities)
    console.print(f"{least}{size(found.used)} cached in {found.segments} segments{end}")
    console.print(f"{size(found.staged)} staged besides: written, and perhaps not yet in the store")
    if found.conflicts:
        console.print(f"{size(found.conflicts)} of conflicts: see {layout.kept}")
    console.print(f"capacity {known or 'not known: no volume with this cache is mounted'}")
    console.print(f"{size(free)} free on the file system")


@contextmanager
def _counting() -> Iterator[Callable[[Counted], None]]:
    """Progress on standard error, for a large cache takes seconds."""
    columns = (SpinnerColumn(), TextColumn("{task.completed} segments counted"))
    with showing(*columns, transient=True) as progress:
        task = progress.add_task("count", total=None)
        yield lambda found: progress.update(task, completed=found.segments)


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
    with failing(), showing(*columns) as progress:
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
