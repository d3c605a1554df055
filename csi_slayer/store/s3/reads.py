"""Reading: HEAD, listings, small and large ranges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from csi_slayer.errors import PreconditionFailed, StoreIntegrityError, StoreUnavailable
from csi_slayer.store.base import ListPage, ObjectInfo, RangeSink
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.engine import Engine, describe
from csi_slayer.store.s3.headers import (
    content_range,
    head_info,
    normal_etag,
    object_info,
)
from csi_slayer.store.s3.jobs import Download, wrong_answer
from csi_slayer.store.s3.request import S3Request
from csi_slayer.store.s3.xml import next_token, parse_listing

# A whole object asked for by ``get`` may be this large (bytes); larger ones are for ``fetch``.
MOST_GET_BYTES = 64 << 20
# Room for the text of an error where the body asked for is smaller.
_LEAST_LIMIT = 1 << 16


class Reads:
    """The reading half of the store."""

    def __init__(self, engine: Engine, check_deadline: float) -> None:
        self._engine = engine
        self._check_deadline = check_deadline

    async def check(self) -> None:
        """List one key below the prefix, which is what every mount needs to be allowed."""
        seconds = self._check_deadline
        policy = replace(self._engine.policy, deadline=seconds)
        prefix = self._engine.address.prefix
        query = [("list-type", "2"), ("max-keys", "1"), ("prefix", prefix)]
        query.append(("encoding-type", "url"))  # a key may have what XML cannot
        request = S3Request("ListObjectsV2", "GET", None, query)
        try:
            async with asyncio.timeout(seconds):
                await self._engine.call(
                    request, lambda answer: parse_listing(answer.body), policy=policy
                )
        except TimeoutError:
            raise StoreUnavailable(
                f"{self._engine.endpoint}: no answer within {seconds:g} s: "
                "check the endpoint's address and the network policy"
            ) from None

    async def head(self, key: str) -> ObjectInfo:
        """Size, etag, time and user metadata of an object."""
        return await self._engine.call(
            S3Request("HeadObject", "HEAD", key), lambda answer: head_info(key, answer.headers)
        )

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
        """One page of ListObjectsV2; the marker of the volume's own root is left out."""
        root = self._engine.address.prefix
        query = [
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("max-keys", str(limit)),
            ("prefix", root + prefix),
        ]
        if delimiter:
            query.append(("delimiter", "/"))
        if token is not None:
            query.append(("continuation-token", token))
        elif start_after is not None:
            query.append(("start-after", root + start_after))
        request = S3Request("ListObjectsV2", "GET", None, query)

        def glance(answer: Answer) -> None:
            following = next_token(answer.body)
            if following not in (None, token) and continues is not None:
                continues(following)

        def parse(answer: Answer) -> ListPage:
            page = parse_listing(answer.body, root)
            if token is not None and page.token == token:
                raise StoreIntegrityError("the listing does not get on: its token is repeated")
            return page

        return await self._engine.call(
            request,
            parse,
            glance=None if continues is None else glance,
        )

    async def get(
        self, key: str, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> tuple[ObjectInfo, bytes]:
        """A range into memory; a whole object up to MOST_GET_BYTES.

        A range that begins at or after the end is InvalidRange.
        """
        if length == 0:
            info = await self.head(key)
            if if_match is not None and info.etag != if_match:
                raise PreconditionFailed(f"GetObject {key!r}: the object is another version")
            return info, b""
        headers = []
        if length is not None:
            headers.append(("range", f"bytes={offset}-{offset + length - 1}"))
        elif offset:
            headers.append(("range", f"bytes={offset}-"))
        if if_match is not None:
            headers.append(("if-match", if_match))

        def parse(answer: Answer) -> tuple[ObjectInfo, bytes]:
            total = _check_body(answer, offset, length)
            info = object_info(key, answer.headers, total)
            if if_match is not None and info.etag != if_match:
                raise wrong_answer(
                    f"asked for version {if_match}, the server sent {info.etag}",
                    PreconditionFailed,
                )
            return info, answer.body

        most = MOST_GET_BYTES if length is None else max(length, _LEAST_LIMIT)
        return await self._engine.call(
            S3Request("GetObject", "GET", key, (), headers), parse, limit=most
        )

    async def fetch(
        self, key: str, *, offset: int, length: int, if_match: str, sink: RangeSink
    ) -> None:
        """A range into ``sink``, from a transfer thread; see the interface."""
        if length <= 0:
            return
        job = Download(offset, length, normal_etag(if_match), sink)

        async def attempt() -> None:
            begin = job.position
            request = S3Request(
                "GetObject",
                "GET",
                key,
                (),
                [("if-match", if_match), ("range", f"bytes={begin}-{job.end - 1}")],
            )
            try:
                await self._engine.transfer(request, job, lambda: job.position)
            except Transient as failure:
                failure.progress = job.position > begin
                raise

        await self._engine.policy.run(attempt, describe(S3Request("GetObject", "GET", key)))


def _check_body(answer: Answer, offset: int, length: int | None) -> int:
    """The size of the whole object. Raises StoreIntegrityError for another range than asked."""
    received = len(answer.body)
    if answer.status == 206:
        first, count, total = content_range(answer.headers)
        wanted = total - offset if length is None else min(length, total - offset)
        if first == offset and count == wanted == received:
            return total
    elif offset == 0 and (length is None or received <= length):
        return received
    raise StoreIntegrityError(
        f"asked for bytes from {offset}, the server sent {received} bytes, "
        f"{answer.headers.get('content-range', 'no range')}"
    )
