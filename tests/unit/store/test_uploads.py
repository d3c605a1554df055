"""Multipart uploads: what a server may make of a listing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.uploads import Uploads
from csi_slayer.store.write_token import LostWrites

_UPLOAD = (
    b"<Upload><Key>k</Key><UploadId>u</UploadId>"
    b"<Initiated>2026-11-24T10:40:00Z</Initiated></Upload>"
)


class Endless:
    """Each page is larger than any that was asked for, and there is always another one."""

    address = SimpleNamespace(prefix="")

    def __init__(self) -> None:
        self.pages = 0

    async def call(self, _request: object, parse: Callable[[Answer], Any]) -> Any:
        self.pages += 1
        body = (
            b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>"
            b"<NextKeyMarker>%d</NextKeyMarker>"
            % self.pages
            + _UPLOAD * 30_000
            + b"</ListMultipartUploadsResult>"
        )
        return parse(Answer(200, {}, body))


def test_a_listing_without_end_is_ended() -> None:
    """A volume's owner may have named the server, and the controller is everybody's: of 100 pages
    of 8 MB it kept more than the gigabyte it has."""
    engine: Any = Endless()
    found = asyncio.run(Uploads(engine, LostWrites()).list_multipart(""))
    assert len(found) == 120_000
    assert engine.pages == 4
