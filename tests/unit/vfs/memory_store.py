"""An object store in a dictionary that can die with its client, before or after a change."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from csi_slayer.errors import InvalidRange, KeyObstructed, ObjectNotFound, PreconditionFailed
from csi_slayer.store.base import (
    ANY,
    Condition,
    ListPage,
    ObjectInfo,
    PendingUpload,
    RangeSink,
    changed,
)
from csi_slayer.store.write_token import WRITE_TOKEN


@dataclass
class Blob:
    body: bytes
    etag: str
    mtime_ns: int
    metadata: dict[str, str]


@dataclass
class Bucket:
    """What outlives every client. ``changes``: how many there were; ``tree``: whether it is kept
    as files, so that it cannot hold an object and others below its key; ``husks``: keys that are
    listed as directories though nothing is in them, as MinIO lists what a dead request has left;
    ``hides``: of what is below the key of an object only the mark is listed, as by MinIO."""

    objects: dict[str, Blob] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[str, str], dict[int, bytes]]] = field(default_factory=dict)
    serial: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    changes: int = 0
    tree: bool = False
    husks: set[str] = field(default_factory=set)
    hides: bool = False

    def listed(self, prefix: str) -> list[str]:
        """Keys that begin with ``prefix``, as far as a listing of it shows them."""
        return [key for key in sorted(self.objects) if self._is_listed(key, prefix)]

    def _is_listed(self, key: str, prefix: str) -> bool:
        if not key.startswith(prefix):
            return False
        start = max(0, len(prefix) - 1)
        slashes = [at for at in range(start, len(key) - 1) if key[at] == "/"]
        return not (self.hides and any(key[:at] in self.objects for at in slashes))


class MemoryStore:
    """One client of a bucket. Each call suspends ``turns`` times before and after its effect.

    ``heads`` counts requests for metadata.

    After ``dies_in`` further changes the client is dead: the last change happened, its answer and
    all later ones never come.
    """

    identity = "memory"
    part_minimum = 1
    key_maximum = 1024
    progress = 0

    def __init__(self, bucket: Bucket, turns: int = 1) -> None:
        self.bucket = bucket
        self.turns = turns
        self.dies_in: int | None = None
        self.dead = False
        self.heads = 0

    async def _begin(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.dead:
            await asyncio.get_running_loop().create_future()

    async def _end(self) -> None:
        if self.dead:
            await asyncio.get_running_loop().create_future()
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.dead:
            await asyncio.get_running_loop().create_future()

    def _changed(self) -> None:
        self.bucket.changes += 1
        if self.dies_in is not None:
            self.dies_in -= 1
            self.dead = self.dies_in <= 0

    def _info(self, key: str, blob: Blob) -> ObjectInfo:
        metadata = {k: v for k, v in blob.metadata.items() if k != WRITE_TOKEN}
        token = blob.metadata.get(WRITE_TOKEN)
        return ObjectInfo(key, len(blob.body), blob.etag, blob.mtime_ns, metadata, token)

    def _blob(self, key: str, if_match: str | None = None) -> Blob:
        blob = self.bucket.objects.get(key)
        if blob is None:
            raise ObjectNotFound(key)
        if if_match is not None and blob.etag != if_match:
            raise PreconditionFailed(key)
        return blob

    def _check(self, key: str, condition: Condition) -> None:
        blob = self.bucket.objects.get(key)
        if condition.absent and blob is not None:
            raise PreconditionFailed(key)
        if condition.if_match is not None:
            self._blob(key, condition.if_match)

    def _put(self, key: str, body: bytes, metadata: Mapping[str, str] | None) -> ObjectInfo:
        self._check_place(key)
        number = next(self.bucket.serial)
        blob = Blob(body, f'"{number}"', 10**18 + number, dict(metadata or {}))
        self.bucket.objects[key] = blob
        self._changed()
        return self._info(key, blob)

    def _check_place(self, key: str) -> None:
        if not self.bucket.tree:
            return
        parts = key.split("/")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        below = key.rstrip("/") + "/"
        for other in self.bucket.objects:
            if other in above or (not key.endswith("/") and other.startswith(below)):
                raise KeyObstructed(f"{key}: {other} is in the way")

    async def check(self) -> None:
        await self._begin()

    async def head(self, key: str) -> ObjectInfo:
        self.heads += 1
        await self._begin()
        info = self._info(key, self._blob(key))
        await self._end()
        return info

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: bool = True,
        token: str | None = None,
        start_after: str | None = None,
        limit: int = 1000,
        continues: Callable[[str], None] | None = None,
    ) -> ListPage:
        await self._begin()
        objects: list[ObjectInfo] = []
        prefixes: set[str] = set()
        for key in self.bucket.listed(prefix):
            rest = key[len(prefix) :]
            if delimiter and "/" in rest:
                prefixes.add(prefix + rest.partition("/")[0] + "/")
            else:
                info = self._info(key, self.bucket.objects[key])
                objects.append(info._replace(metadata=None, write_token=None))
        for husk in self.bucket.husks - set(self.bucket.objects):
            if delimiter and husk.rpartition("/")[0] == prefix.rstrip("/"):
                prefixes.add(husk + "/")
        await self._end()
        start = int(token or 0)
        end = start + limit
        if end < len(objects):
            return ListPage(objects[start:end], [], str(end))
        return ListPage(objects[start:], sorted(prefixes), None)

    async def get(
        self, key: str, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> tuple[ObjectInfo, bytes]:
        await self._begin()
        blob = self._blob(key, if_match)
        if offset and offset >= len(blob.body):
            raise InvalidRange(key)
        end = len(blob.body) if length is None else offset + length
        await self._end()
        return self._info(key, blob), blob.body[offset:end]

    async def fetch(
        self, key: str, *, offset: int, length: int, if_match: str, sink: RangeSink
    ) -> None:
        await self._begin()
        body = self._blob(key, if_match).body[offset : offset + length]
        if len(body) < length:
            raise InvalidRange(key)
        for start in range(0, len(body), sink.piece):
            piece = memoryview(body)[start : start + sink.piece]
            room = sink.room(len(piece))
            if room is not None:
                room[:] = piece
            sink.write(offset + start, piece if room is None else room)
        await self._end()

    async def put(
        self,
        key: str,
        body: bytes | memoryview,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        await self._begin()
        self._check(key, condition)
        info = self._put(key, bytes(body), metadata)
        await self._end()
        return info

    async def put_file(
        self,
        key: str,
        fd: int,
        length: int,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        return await self.put(key, _read(fd, 0, length), condition=condition, metadata=metadata)

    async def create_multipart(self, key: str, *, metadata: Mapping[str, str] | None = None) -> str:
        await self._begin()
        upload_id = f"upload{next(self.bucket.serial)}"
        self.bucket.uploads[upload_id] = (key, dict(metadata or {}), {})
        self._changed()
        await self._end()
        return upload_id

    async def upload_part(
        self, key: str, upload_id: str, number: int, fd: int, offset: int, length: int
    ) -> str:
        await self._begin()
        self.bucket.uploads[upload_id][2][number] = _read(fd, offset, length)
        await self._end()
        return f"part{number}"

    async def upload_part_copy(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        source_etag: str,
        offset: int,
        length: int,
    ) -> str:
        await self._begin()
        body = self._blob(source, source_etag).body
        self.bucket.uploads[upload_id][2][number] = body[offset : offset + length]
        await self._end()
        return f"part{number}"

    async def complete_multipart(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        await self._begin()
        self._check(key, condition)
        _key, metadata, bodies = self.bucket.uploads.pop(upload_id)
        info = self._put(key, b"".join(bodies[number] for number, _etag in parts), metadata)
        await self._end()
        return info

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        await self._begin()
        self.bucket.uploads.pop(upload_id, None)
        await self._end()

    async def list_multipart(self, prefix: str) -> Sequence[PendingUpload]:
        return [PendingUpload(key, i, 0) for i, (key, _m, _p) in self.bucket.uploads.items()]

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        await self._begin()
        blob = self._blob(source, source_etag)
        self._check(target, condition)
        found = self._info(source, blob).metadata or {}
        values = blob.metadata if metadata is None else changed(found, metadata)
        info = self._put(target, blob.body, values)
        await self._end()
        return info

    async def delete(self, key: str) -> None:
        await self._begin()
        self.bucket.objects.pop(key, None)
        self._changed()
        await self._end()

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        await self._begin()
        for key in keys:
            self.bucket.objects.pop(key, None)
        self._changed()
        await self._end()
        return {}

    async def close(self) -> None:
        return None


def _read(fd: int, offset: int, length: int) -> bytes:
    return os.pread(fd, length, offset)
