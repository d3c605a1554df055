"""How commands speak: results on standard output, problems as one line on standard error."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from csi_slayer.cli.interrupts import raised
from csi_slayer.config import exposed_secrets
from csi_slayer.errors import SlayerError
from csi_slayer.observability.printable import printable


class _Plain(Console):
    """Paths, keys and the words of servers are printed: what is in brackets or between colons there
    is no markup, and no control character a command."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = _Plain()
errors = _Plain(stderr=True)


class Terminated(KeyboardInterrupt):
    """A signal that ends came, and is dealt with as Ctrl-C is; the argument is its number."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, raise Terminated within the block, unless
    they are to be ignored."""

    def stop(number: int, _frame: object) -> None:
        raise Terminated(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(message: str, *, status: int = 1) -> NoReturn:
    """Say what is wrong and end."""
    print(f"csi-slayer: {printable(message)}", file=sys.stderr)
    raise typer.Exit(status)


def warn_of_exposed_secrets(path: Path | None) -> None:
    """One line on standard error where a configuration file's secrets can be read by others."""
    found = exposed_secrets(path) if path is not None else []
    if found:
        print(
            f"csi-slayer: warning: {path} holds store.{', store.'.join(found)} and can be read by"
            f" others: chmod 600 {shlex.quote(str(path))}",
            file=sys.stderr,
        )


def warn_of_little_room(directory: Path, min_free: int) -> None:
    """One line on standard error where the cache's file system has so little room that no new file
    can be made in the mount: less than half of ``min_free`` bytes."""
    free = shutil.disk_usage(directory).free
    if free < min_free // 2:
        print(
            f"csi-slayer: warning: {directory} has {size(free)} free, and cache.min_free is"
            f" {size(min_free)}: nothing is cached, and new files get ENOSPC, until there is more"
            " room; make some, take another --cache-dir, or lower cache.min_free",
            file=sys.stderr,
        )


@contextmanager
def failing() -> Iterator[None]:
    """Turn the errors of the layers below into one line and exit status 1."""
    try:
        with raised():
            yield
    except SlayerError as error:
        fail(str(error))
    except Terminated as end:
        fail("terminated", status=128 + int(end.args[0]))
    except KeyboardInterrupt:
        fail("interrupted", status=130)


def size(number: int) -> str:
    """Bytes for people: 1.5 GiB."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
