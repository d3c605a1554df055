"""Copies in parts: what went wrong is what the caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from csi_slayer.errors import PreconditionFailed, StoreUnavailable
from csi_slayer.store.base import Condition
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.copies import Copies
from csi_slayer.store.write_token import LostWrites


class Engine:
    """Every object has four bytes."""

    endpoint = "http://host"
    address = SimpleNamespace(copy_source=lambda key: key)

    async def call(self, _request: object, parse: Callable[[Answer], Any]) -> Any:
        return parse(Answer(200, {"content-length": "4", "etag": '"e"'}, b""))


class Uploads:
    """One step of an upload fails, and to abort it fails as well."""

    def __init__(self, step: str, error: BaseException) -> None:
        self._step, self._error = step, error
        self.aborted = 0

    async def begin(self, *_values: object) -> str:
        return "upload"

    async def copy_part(self, *_values: object) -> str:
        self._reach("part")
        return '"p"'

    async def complete_multipart(self, *_values: object, condition: Condition) -> None:
        self._reach("end")

    def _reach(self, step: str) -> None:
        if step == self._step:
            raise self._error

    async def abort_multipart(self, *_values: object) -> None:
        self.aborted += 1
        raise StoreUnavailable("the store does not answer any more")


_OTHER = PreconditionFailed("another version")


@pytest.mark.parametrize(
    ("step", "error"), [("part", _OTHER), ("end", _OTHER), ("end", asyncio.CancelledError())]
)
def test_a_failed_abort_hides_no_error(step: str, error: BaseException) -> None:
    uploads: Any = Uploads(step, error)
    engine: Any = Engine()
    copies = Copies(engine, uploads, LostWrites(), largest=1, part=1)
    with pytest.raises(type(error)):
        asyncio.run(copies.copy("a", "b"))
    assert uploads.aborted == 1
