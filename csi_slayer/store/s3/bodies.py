"""Bodies that come from files: small ones are read, large ones sent by a transfer thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

from csi_slayer.errors import SourceShort
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.engine import Engine
from csi_slayer.store.s3.errors import ExpectationRefused
from csi_slayer.store.s3.jobs import Upload
from csi_slayer.store.s3.request import Pairs, S3Request
from csi_slayer.store.s3.sign import LARGEST_SIGNED_BODY, content_md5
from csi_slayer.store.source import read_at_once, reading

_PIECE = 1 << 20


class FileBody:
    """``length`` bytes of a file from ``offset``; the file stays the caller's.

    Up to a megabyte is read and signed, so that the server proves to have got these bytes.
    """

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd = fd
        self._offset = offset
        self._length = length
        self._data: bytes | None = None
        self._asks = True

    async def send(self, engine: Engine, op: str, key: str, query: Pairs, headers: Pairs) -> Answer:
        """One attempt of a PUT with this body. Raises like ``Engine.attempt``."""
        if self._length <= LARGEST_SIGNED_BODY:
            if self._data is None:
                self._data = await self._read(engine)
            return await engine.attempt(S3Request(op, "PUT", key, query, headers, self._data))
        if engine.digests:
            digest = await engine.prepare(lambda: content_md5(self._pieces()))
            headers = [*headers, ("content-md5", digest)]
        conditional = any(name in ("if-match", "if-none-match") for name, _ in headers)
        ask_first = self._asks and conditional
        request = S3Request(
            op, "PUT", key, query, headers, body_length=self._length, ask_first=ask_first
        )
        job = Upload(self._fd, self._offset, self._length, ask_first)
        try:
            return await engine.transfer(request, job, lambda: 0)
        except ExpectationRefused:
            self._asks = False
            raise

    def _pieces(self) -> Iterator[bytes]:
        end = self._offset + self._length
        for offset in range(self._offset, end, _PIECE):
            with reading():
                piece = os.pread(self._fd, min(_PIECE, end - offset), offset)
            yield piece

    async def _read(self, engine: Engine) -> bytes:
        data = read_at_once(self._fd, self._offset, self._length)
        if data is None:
            with reading():
                data = await engine.prepare(
                    lambda: _read_fully(self._fd, self._offset, self._length)
                )
        if len(data) < self._length:
            raise SourceShort
        return data


def _read_fully(fd: int, offset: int, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    done = 0
    while done < length:
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return bytes(view[:done])
