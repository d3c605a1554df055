"""``csi-slayer cache``: usage, evict, verify. Works on the cache directory; needs no worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from csi_slayer.cache import Cache
from csi_slayer.cli.output import console, failing, size
from csi_slayer.config.node import default_cache_capacity, default_cache_directory

cache_app = typer.Typer(
    name="cache", help="Look at, check or empty the node's cache.", no_args_is_help=True
)

Directory = Annotated[
    Path | None, typer.Option("--cache-dir", help="Directory of the cache; else the default one.")
]


def _open(directory: Path | None) -> Cache:
    path = (directory or default_cache_directory()).absolute()
    return Cache(path, default_cache_capacity(path))


@cache_app.command()
def usage(
    cache_dir: Directory = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how much the cache holds."""
    with failing():
        cache = _open(cache_dir)
        found = cache.usage()
        cache.close()
    if as_json:
        print(json.dumps({"bytes": found.bytes, "segments": found.segments,
                          "staged_bytes": found.staged, "conflict_bytes": found.conflicts}))  # fmt: skip
        return
    console.print(f"{size(found.bytes)} in {found.segments} segments")
    console.print(f"{size(found.staged)} staged: written, and not yet a segment")
    if found.conflicts:
        console.print(f"{size(found.conflicts)} kept after lost races: see {cache.root}/conflicts",
                      style="yellow")  # fmt: skip


@cache_app.command()
def evict(
    cache_dir: Directory = None,
    keep: Annotated[str, typer.Option(help="Bytes to keep, such as 5GiB.")] = "0",
) -> None:
    """Remove cached data that nobody has open; staged writes always stay.

    \b
    [bold]Examples[/bold]
      csi-slayer cache evict
      csi-slayer cache evict --keep 5GiB
    """
    from csi_slayer.config import parse_size

    with failing():
        try:
            bytes_kept = parse_size(keep)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--keep") from None
        cache = _open(cache_dir)
        freed = cache.evict_to(bytes_kept)
        cache.close()
    console.print(f"{size(freed)} freed")


@cache_app.command()
def verify(cache_dir: Directory = None) -> None:
    """Check every cached block against its checksum; bad ones are dropped and fetched again."""
    with failing(), Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("segments", total=None)
        cache = _open(cache_dir)
        result = cache.verify_all(
            lambda done, total: progress.update(task, completed=done, total=total)
        )
        cache.close()
    console.print(f"{result.segments} segments, {result.blocks} blocks checked, "
                  f"{result.bad_blocks} bad blocks dropped")  # fmt: skip
    if result.bad_blocks:
        raise typer.Exit(2)
