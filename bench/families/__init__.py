"""One module for each family of rows that are measured together."""

from __future__ import annotations

from collections.abc import Callable

from bench.families import coldsmall, create, listing, memory, openfile, readonly, stream
from bench.session import Session

RUN: dict[str, Callable[[Session], None]] = {
    "openfile": openfile.run,
    "readonly": readonly.run,
    "stream": stream.run,
    "coldsmall": coldsmall.run,
    "create": create.run,
    "listing": listing.run,
    "memory": memory.run,
}
"""By the family names of :mod:`bench.rows`; each measures those of its rows that are wanted."""
