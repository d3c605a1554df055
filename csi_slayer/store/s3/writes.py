"""Writing whole objects, and deleting them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from csi_slayer.errors import ObjectNotFound, StoreError, StoreUnsupported
from csi_slayer.store.base import ANY, Condition, ObjectInfo
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.bodies import FileBody
from csi_slayer.store.s3.conditional import ConditionalWrite
from csi_slayer.store.s3.engine import Engine, describe
from csi_slayer.store.s3.headers import (
    condition_headers,
    http_time,
    metadata_headers,
    normal_etag,
)
from csi_slayer.store.s3.jobs import wrong_answer
from csi_slayer.store.s3.request import Pairs, S3Request
from csi_slayer.store.s3.sign import content_md5
from csi_slayer.store.s3.xml import build_delete, parse_deleted, writable
from csi_slayer.store.write_token import WRITE_TOKEN, LostWrites, choose_token

# What one DeleteObjects takes, and how many run at a time.
_DELETE_BATCH = 1000
_DELETES_AT_ONCE = 4

SendBody = Callable[[Pairs], Awaitable[Answer]]


class Writes:
    """Single-request writes and deletes."""

    def __init__(self, engine: Engine, lost: LostWrites) -> None:
        self._engine = engine
        self._lost = lost
        self._batches = True  # until the service says that it knows none

    async def put(
        self,
        key: str,
        body: bytes | memoryview,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """An object from memory. ``body`` must not change before this returns."""

        async def send(headers: Pairs) -> Answer:
            return await self._engine.attempt(S3Request("PutObject", "PUT", key, (), headers, body))

        return await self._put(key, len(body), condition, metadata, send)

    async def put_file(
        self,
        key: str,
        fd: int,
        length: int,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """An object from a file; its time is the server's clock at the answer."""
        source = FileBody(fd, 0, length)

        async def send(headers: Pairs) -> Answer:
            return await source.send(self._engine, "PutObject", key, (), headers)

        return await self._put(key, length, condition, metadata, send)

    async def _put(
        self,
        key: str,
        size: int,
        condition: Condition,
        metadata: Mapping[str, str] | None,
        send_body: SendBody,
    ) -> ObjectInfo:
        journalled = bool(metadata) and WRITE_TOKEN in (metadata or {})
        token = choose_token(metadata) if journalled or condition != ANY else None
        headers = metadata_headers(metadata, token)

        async def send(current: Condition) -> ObjectInfo:
            answer = await send_body([*headers, *condition_headers(current)])
            return written(key, size, answer, metadata)

        write = ConditionalWrite(
            self._engine, self._lost, key, condition, send, token, journalled=journalled
        )
        return await write.run(describe(S3Request("PutObject", "PUT", key)))

    async def delete(self, key: str) -> None:
        """Delete one object; it need not exist."""
        try:
            await self._engine.call(S3Request("DeleteObject", "DELETE", key), _nothing)
        except ObjectNotFound:
            pass

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete in batches, or one by one where the service knows none; a batch that fails as a
        whole is reported for each of its keys."""
        plain = [key for key in keys if self._batches and writable(key)]
        batches = [plain[n : n + _DELETE_BATCH] for n in range(0, len(plain), _DELETE_BATCH)]
        single = [key for key in keys if not (self._batches and writable(key))]
        failed: dict[str, str] = {}
        turns = asyncio.Semaphore(_DELETES_AT_ONCE)

        async def one_batch(batch: list[str]) -> None:
            async with turns:
                try:
                    failed.update(await self._delete_batch(batch))
                    return
                except StoreUnsupported:
                    self._batches = False
                except StoreError as error:
                    failed.update(dict.fromkeys(batch, str(error)))
                    return
            await asyncio.gather(*(one_key(key) for key in batch))

        async def one_key(key: str) -> None:
            async with turns:
                try:
                    await self.delete(key)
                except StoreError as error:
                    failed[key] = str(error)

        async with asyncio.TaskGroup() as group:
            for batch in batches:
                group.create_task(one_batch(batch))
            for key in single:
                group.create_task(one_key(key))
        return failed

    async def _delete_batch(self, keys: Sequence[str]) -> Mapping[str, str]:
        root = self._engine.address.prefix
        body = build_delete([root + key for key in keys])
        headers = [
            ("content-md5", content_md5([body])),
            ("content-type", "application/xml"),
        ]
        request = S3Request("DeleteObjects", "POST", None, [("delete", "")], headers, body)

        def parse(answer: Answer) -> dict[str, str]:
            if not answer.body:
                raise StoreUnsupported("the service does not say what of a batch it could delete")
            return parse_deleted(answer.body)

        failed = await self._engine.call(request, parse)
        return {
            key.removeprefix(root): reason
            for key, reason in failed.items()
            if not reason.startswith("NoSuchKey:")
        }


def _nothing(answer: Answer) -> None:
    return None


def written(key: str, size: int, answer: Answer, metadata: Mapping[str, str] | None) -> ObjectInfo:
    """What a PUT's answer says about the new object. Raises Transient if it has no etag."""
    etag = normal_etag(answer.headers.get("etag", ""))
    if not etag:
        raise wrong_answer("the write was acknowledged without an etag")
    mtime_ns = http_time(answer.headers.get("date", "")) * 10**9
    kept = {name.lower(): value for name, value in (metadata or {}).items()}
    kept.pop(WRITE_TOKEN, None)
    return ObjectInfo(key, size, etag, mtime_ns, kept)
