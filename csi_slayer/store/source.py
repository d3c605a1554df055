"""Reading the local files whose bytes are sent to a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from csi_slayer.errors import SourceUnreadable


@contextmanager
def reading() -> Iterator[None]:
    """Translates an OSError of such a file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceUnreadable(f"the file to send cannot be read: {reason}") from error
