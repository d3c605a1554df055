"""``--option``, which sets any key of the configuration file that is no secret."""

from __future__ import annotations

from typing import Annotated

import typer

from csi_slayer.cli.output import fail

Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="Any option of the file: volume.quota=10GiB"),
]


def extra(options: list[str] | None) -> dict[str, object]:
    """What was given by dotted key; ends the command where that is malformed or a secret."""
    values: dict[str, object] = {}
    for text in options or []:
        key, separator, value = text.partition("=")
        if not separator:
            fail(f"--option {text}: expected key=value, such as volume.quota=10GiB")
        if "secret" in key or key.endswith("token"):
            fail(f"--option {key}: secrets do not belong on a command line; use a file")
        values[key] = list(filter(None, value.split(","))) if key == "fuse.disable" else value
    return values
